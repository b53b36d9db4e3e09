"""A trigger's place in its stream: the stream with its creation, and the last acknowledged sequence.

A sequence alone is no place: a stream that is deleted and created again counts from 1 again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from trigger_sources.context import Context, SourceError, State
from trigger_sources.kept_state import Damaged, read_json
from trigger_sources.nats.consumer import unsettled
from trigger_sources.nats.losses import Count, Tally
from trigger_sources.nats.source_stream import SourceStream
from trigger_sources.nats.spec import NATSSpec

log = logging.getLogger(__name__)

DAMAGED = "PlaceDamaged"  # the reason of a condition
_STATE_KEY = "jetstream-place"
_VERSION = 1  # of the value; a change that this version can read as well is none
_SAVE_SECONDS = 60.0  # between two writes: an older place only repeats messages
_SAVE_WAIT_SECONDS = 1.5
_CLAIM_SECONDS = 2.0  # longer than another replica needs from its look at the state to its write


@dataclass(frozen=True, slots=True)
class Place:
    """The place as the trigger's durable state keeps it, for a consumer that is deleted while no fabric runs."""

    stream: str  # its name and creation, as in SourceStream.place
    subject: str
    floor: int  # all messages up to this sequence are acknowledged
    since: str  # the time at which the trigger's first consumer was created; `start: new` means this time
    ids: str  # the first part of the ids of events
    unread: int = 0  # messages that are lost if the stream is deleted
    tally: Tally = field(default_factory=Tally)  # of the messages that were lost although the stream is there
    consumer: str = ""  # its name, which stays when the trigger gets another function

    def to_bytes(self) -> bytes:
        return orjson.dumps(asdict(self))

    @property
    def stream_name(self) -> str:
        return self.stream.rpartition("@")[0]


_PLACES: TypeAdapter[Place] = TypeAdapter(Place)


@dataclass(frozen=True, slots=True)
class Beginning:
    """The place where a new consumer begins. `reason` and `message` say why it is not the one of `start`."""

    config: Mapping[str, Any]
    ids: str
    reason: str = ""
    message: str = ""
    lost: int = 0  # messages that the former stream still had, as far as it was known


def place_from(found: Mapping[str, Any]) -> Place:
    """Reads a kept place. Raises ValueError. Another version may have left out fields, or have written more."""
    try:
        place = _PLACES.validate_json(orjson.dumps(found), strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}") from error
    seconds = place.stream.rpartition("@")[2]
    if place.floor < 0 or place.unread < 0 or not seconds.isdecimal() or not place.stream_name:
        raise ValueError("its stream or its sequences are none")
    datetime.fromisoformat(place.since[:19])
    return place


def beginning_of_damaged(stream: SourceStream) -> Beginning:
    """The place where a missing consumer begins whose place is not known any more: `start` was decided long ago."""
    return Beginning({"deliver_policy": "all"}, stream.name, DAMAGED)


def beginning(start: str, subject: str, stream: SourceStream, kept: Place | None) -> Beginning:
    """The place where a missing consumer is to begin."""
    if kept is None or kept.subject != subject:
        return Beginning(policy_of(start), stream.name)
    if kept.stream == stream.place:
        # A stream that was restored from a backup may end before the place
        first = min(kept.floor, stream.last_sequence) + 1
        return Beginning(
            stream.policy_from(first), kept.ids, "ConsumerRecreated", f"the consumer was deleted; from sequence {first}"
        )
    if start == "new":
        config = {"deliver_policy": "by_start_time", "opt_start_time": kept.since}
    else:
        config = policy_of("all" if start.isdigit() else start)
    if kept.stream_name != stream.name:
        return Beginning(config, stream.name)
    return Beginning(
        config,
        stream.place,  # so that no id of the former stream comes again
        "StreamRecreated",
        f"stream {stream.name} was deleted and created again at {stream.created}; all of its messages are read."
        f" The former one was acknowledged up to sequence {kept.floor}, and had at least {kept.unread} unread messages",
        kept.unread,
    )


def consumer_in(kept: Place | Damaged | None, trigger: NATSSpec, context: Context) -> str:
    """The name of the trigger's consumer: after the trigger got another function, still that of the former one."""
    if trigger.durable is None and isinstance(kept, Place) and kept.consumer.startswith(trigger.own_names(context)):
        return kept.consumer
    return trigger.name_in(context)


async def kept_place(state: State) -> Place | Damaged | None:
    """The durable place. Raises SourceError."""
    return await read_json(state, _STATE_KEY, _VERSION, place_from)


class KeptPlace:
    """The place of a running trigger, and its copy in the trigger's durable state."""

    def __init__(self, state: State, subject: str) -> None:
        self._state = state
        self._subject = subject
        self._place: Place | None = None
        self._consumer_created = ""
        self._loaded = False
        self._durable: Place | None = None
        self._saved_at = float("-inf")

    @property
    def floor(self) -> int:
        return self._place.floor if self._place is not None else 0

    async def load(self) -> Place | Damaged | None:
        """The durable place, read once. Raises SourceError."""
        if self._loaded:
            return self._durable
        found = await kept_place(self._state)
        self._durable = found if isinstance(found, Place) else None
        self._loaded = True
        return found

    def is_at(self, stream: str, info: Mapping[str, Any], ids: str) -> None:
        """Takes the place of a consumer that was found or created."""
        self._consumer_created = info["created"]
        self._place = Place(
            stream=stream,
            subject=self._subject,
            floor=info["ack_floor"]["stream_seq"],
            since=info["created"],
            ids=ids,
            unread=unsettled(info),
            consumer=info["name"],
        )

    def moved(self, info: Mapping[str, Any] | None) -> None:
        """Takes the acknowledgements that the consumer has. Another consumer of the same name is ignored."""
        if info is not None and self._place is not None and info["created"] == self._consumer_created:
            self._place = replace(self._place, floor=info["ack_floor"]["stream_seq"], unread=unsettled(info))

    def tallied(self, tally: Tally) -> None:
        if self._place is not None:
            self._place = replace(self._place, tally=tally)

    async def claim(self, count: Callable[[Tally], Count], alone: bool) -> Count:
        """Counts losses durably. `count` starts from the durable tally. Raises SourceError.

        Of several replicas, the one that writes last has them: the others' result is without losses.
        """
        mine = secrets.token_hex(4)
        while True:
            kept = await self._reload()
            found = count(kept.tally if kept is not None else Tally())
            if not found.lost:
                return found
            found = replace(found, tally=replace(found.tally, claim=mine))
            self.tallied(found.tally)
            await self.put()
            if alone:
                return found
            await asyncio.sleep(_CLAIM_SECONDS)
            kept = await self._reload()
            if kept is None or kept.tally.claim == mine:
                return found
            if kept.tally.counted >= found.tally.counted:
                # another replica counted them at the same time
                return replace(found, lost=0, tally=replace(found.tally, claim=kept.tally.claim))

    async def _reload(self) -> Place | None:
        """The place as another replica may have written it. A damaged one is replaced by that of this replica."""
        self._loaded = False
        found = await self.load()
        return found if isinstance(found, Place) else None

    def ended(self, unread: int) -> None:
        """The stream is gone, with so many messages that nobody read."""
        if self._place is not None:
            self._place = replace(self._place, unread=unread)

    async def begin(self) -> None:
        """Keeps the place of a trigger that starts, with its tally, before it is ready: `start` is decided once.

        Raises SourceError if no place of this consumer is durable.
        """
        if self._is_durable:
            await self.save(at_once=True)
        else:
            await self._merge_and_put()

    async def save(self, at_once: bool = False) -> None:
        """Keeps the place, not more often than once a minute unless `at_once`. An old place only repeats messages."""
        if not at_once and self._is_durable and time.monotonic() - self._saved_at < _SAVE_SECONDS:
            return
        try:
            async with asyncio.timeout(_SAVE_WAIT_SECONDS):
                await self._merge_and_put()
        except (SourceError, TimeoutError) as error:
            log.debug("place not kept", extra={"problem": repr(error)})

    @property
    def _is_durable(self) -> bool:
        """Whether the durable place is one of this consumer, so that the losses since then are counted."""
        return self._durable is not None and self._durable.tally.consumer == self._consumer_created

    async def _merge_and_put(self) -> None:
        kept = await self._reload()
        if kept is not None and self._place is not None:
            self._place = replace(self._place, tally=self._place.tally.with_counts_of(kept.tally))
        await self.put()

    async def put(self) -> None:
        """Keeps the place. Raises SourceError."""
        place = self._place
        if place is None:
            return
        kept = self._durable
        if kept is not None and kept.subject == place.subject:
            place = replace(place, since=kept.since)
        if place != kept:
            await self._state.put(_STATE_KEY, place.to_bytes())
            self._durable = place
        self._saved_at = time.monotonic()


def policy_of(start: str) -> dict[str, Any]:
    """A new consumer's deliver policy."""
    if start in ("all", "new"):
        return {"deliver_policy": start}
    if start.isdigit():
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": int(start)}
    moment = datetime.fromisoformat(start).astimezone(UTC)
    return {"deliver_policy": "by_start_time", "opt_start_time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
