"""The other replicas of a trigger controller: who they are, and what each of them serves.

The EndpointSlices of a Service say who they are. Each is asked at its admin port, and answers as soon as it has news.
So at rest there is a request every few seconds, and nothing is written to the API server.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

import aiohttp

from controllers.cluster.api import Api, Object, Refused
from controllers.cluster.metrics import OTHER_REPLICAS
from controllers.triggers.in_force import Peer, replicas_in
from controllers.triggers.served import Served
from controllers.triggers.shared_certificate import SharedCertificate
from trigger_sources.backoff import Backoff

log = logging.getLogger(__name__)

PATH = "/v1/served"
TOKEN_HEADER = "kubeirq-replica-token"  # noqa: S105
ANSWER_SECONDS = 5.0  # a replica without news answers after this time
_PORT_NAME = "admin"
_LATE_SECONDS = 3.0  # beyond that, the replica is silent
_PAUSE_SECONDS = 0.05  # between an answer and the next question: many changes come in one answer
_RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS = 0.1, 2.0
_LIST_AGAIN_SECONDS = 300.0  # finds what a watch missed
_CERTIFICATE_SECONDS = 10.0
_FORMER = "is of a version that does not say what it serves; a rollout of this Deployment replaces it"


@dataclass
class _Asked:
    """A replica that is asked."""

    peer: Peer
    place: tuple[str, int | None]
    task: asyncio.Task[None]


class Peers:
    """Lives in one event loop. `service` is the name of the Service of all replicas; `replica` is this one's name.

    Calls `on_change` with the uids of the triggers that another replica serves in another way, or with None after a
    change of the replicas themselves.
    """

    def __init__(self, api: Api, certificate: SharedCertificate, *, namespace: str, service: str, replica: str) -> None:
        self.on_change: Callable[[Collection[str] | None], None] = lambda uids: None
        self._api = api
        self._certificate = certificate
        self._namespace = namespace
        self._service = service
        self._replica = replica
        self._slices: dict[str, Object] | None = None
        self._unlisted = f"the replicas of this controller (Service {service!r}) are not listed yet"
        self._asked: dict[str, _Asked] = {}  # by name
        self._session: aiohttp.ClientSession
        for state, is_silent in (("answering", False), ("silent", True)):
            OTHER_REPLICAS.read(state, lambda wanted=is_silent: self._count(silent=wanted))  # type: ignore[misc]

    @property
    def found(self) -> Sequence[Peer] | str:
        """The other replicas, or why they are not known."""
        return self._unlisted or [asked.peer for asked in self._asked.values()]

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS + _LATE_SECONDS)) as found:
            self._session = found
            watching = asyncio.ensure_future(self._watch())
            try:
                await self._keep_certificate()
            finally:
                tasks = [watching, *(asked.task for asked in self._asked.values())]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, *, silent: bool) -> int:
        return sum(bool(asked.peer.silence) == silent for asked in self._asked.values())

    async def _keep_certificate(self) -> None:
        """A replica that starts has the newest certificate, and the others have to get it too."""
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            self._certificate.refresh()

    # --- who they are

    async def _watch(self) -> None:
        backoff = Backoff(_RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)
        while True:
            try:
                labels = {"kubernetes.io/service-name": self._service}
                kind = ("discovery.k8s.io/v1", "EndpointSlice", self._namespace, labels)
                listed, version = await self._api.snapshot(*kind)
                self._slices = {found["metadata"]["name"]: found for found in listed}
                self._unlisted, were_unknown = "", bool(self._unlisted)
                self._compare(anew=were_unknown)
                backoff.reset()
                async with aclosing(self._api.changes(*kind, version)) as changes:
                    async with asyncio.timeout(_LIST_AGAIN_SECONDS):
                        async for event, found in changes:
                            if event == "DELETED":
                                self._slices.pop(found["metadata"]["name"], None)
                            else:
                                self._slices[found["metadata"]["name"]] = found
                            self._compare()
            except (Refused, OSError, TimeoutError) as error:
                if self._slices is None:
                    log.warning("replicas not listed", extra={"service": self._service, "problem": str(error)})
                    self._unlisted = (
                        f"the replicas of this controller (Service {self._service!r}) are not known: {error}"
                    )
            await asyncio.sleep(backoff.next())

    def _compare(self, *, anew: bool = False) -> None:
        """Begins to ask each new replica, and ends with those that are gone."""
        assert self._slices is not None
        changed = anew
        listed = {found.name: found for found in replicas_in(self._slices.values(), _PORT_NAME)}
        listed.pop(self._replica, None)
        for name, replica in listed.items():
            asked = self._asked.get(name)
            if asked is not None and asked.place != replica.place:
                self._forget(name)
                asked = None
            if asked is None:
                peer = Peer(name, replica.is_ready)
                task = asyncio.create_task(self._ask_again_and_again(peer, *replica.place), name=f"replica {name}")
                self._asked[name] = _Asked(peer, replica.place, task)
                changed = True
            elif asked.peer.is_ready != replica.is_ready:
                asked.peer.is_ready, changed = replica.is_ready, True
        for name in self._asked.keys() - listed.keys():
            self._forget(name)
            changed = True
        if changed:
            self.on_change(None)

    def _forget(self, name: str) -> None:
        self._asked.pop(name).task.cancel()

    # --- what they serve

    async def _ask_again_and_again(self, peer: Peer, address: str, port: int | None) -> None:
        backoff, since = Backoff(_RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS), ""
        while True:
            try:
                answer = await self._ask(address, port, since)
                changed: Collection[str] | None = _take(peer, answer)
                since = str(answer["since"])
            except _Former as former:
                self._silent(peer, str(former))
                await asyncio.sleep(_RETRY_MAX_SECONDS)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
                text = str(error) or type(error).__name__
                moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                self._silent(peer, f"at {address}:{port} has not said since {moment} what it serves: {text}")
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                if peer.silence:
                    log.info("replica answers", extra={"peer": peer.name})
                if peer.silence or not peer.has_answered or peer.takes_requests != answer["takesRequests"]:
                    peer.silence, peer.has_answered, peer.takes_requests = "", True, answer["takesRequests"]
                    changed = None
                if changed is None or changed:
                    self.on_change(changed)
                await asyncio.sleep(_PAUSE_SECONDS)

    def _silent(self, peer: Peer, silence: str) -> None:
        if not peer.silence:
            log.warning("replica does not answer", extra={"peer": peer.name, "problem": silence})
            peer.silence = silence
            self.on_change(None)

    async def _ask(self, address: str, port: int | None, since: str) -> Mapping[str, Any]:
        if port is None:
            raise _Former(_FORMER)
        host = f"[{address}]" if ":" in address else address
        async with self._session.get(
            f"https://{host}:{port}{PATH}",
            params={"since": since},
            headers={TOKEN_HEADER: self._certificate.token},
            ssl=self._certificate.to_ask,
        ) as answer:
            if answer.status == 404:
                raise _Former(_FORMER)
            found: Mapping[str, Any] = await answer.json()
            if answer.status != 200:
                raise ValueError(f"{answer.status} {found.get('error')}")
            return found


class _Former(Exception):
    """The replica is of a version without the answer."""


def _take(peer: Peer, answer: Mapping[str, Any]) -> Collection[str]:
    """Takes an answer. Returns the uids of the triggers that changed."""
    changes = {uid: None if found is None else _served_of(*found) for uid, found in answer["triggers"].items()}
    changed = set(changes)
    if answer["whole"]:
        changed |= peer.served.keys()
        peer.served.clear()
    for uid, served in changes.items():
        if served is None:
            peer.served.pop(uid, None)
        else:
            peer.served[uid] = served
    return changed


def _served_of(generation: int, status: Literal["True", "False", "Unknown"], reason: str, message: str) -> Served:
    """Of thousands of triggers, most have the same words."""
    return Served(
        generation, cast(Literal["True", "False", "Unknown"], sys.intern(status)), sys.intern(reason), message
    )
