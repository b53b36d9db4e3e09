"""Dead letters in places that the spec named before an edit: they stay there, in reach of a person."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from trigger_sources import kept_state
from trigger_sources.context import Context
from trigger_sources.dead_letters import DeadLetters, DeadLettersOfFunctions
from trigger_sources.kept_state import Damaged
from trigger_sources.source import TriggerSource

log = logging.getLogger(__name__)

_PLACES = "dead-letter-places"  # all that the spec has had
_NAME = "delivery.deadLetter.name"
_REACH_SECONDS = 5.0

Place = Mapping[str, Any]  # the fields of the spec that decide where the dead letters are


async def remember_place(trigger: TriggerSource, context: Context) -> None:
    """Notes the place that the spec gives to the dead letters. Raises SourceError."""
    if not trigger.letter_fields and trigger.dead_letters(context) is None:
        return  # they are in the fabric's own store, whatever the spec says
    place = _place_of(trigger)
    if place not in (places := await _places(context, place)):
        await context.state.put(_PLACES, orjson.dumps([*places, place]))


async def former_places(
    trigger: TriggerSource,
    context: Context,
    present: DeadLetters,
    own: Callable[[], DeadLetters],
    unreached: Callable[[str], None],
) -> list[DeadLettersOfFunctions]:
    """The places that exist beside the present one. `own` is the fabric's own store.

    `unreached` hears of each place that cannot be reached. Raises SourceError.
    """
    now = _place_of(trigger)
    others = [place for place in await _places(context, now) if place != now]
    if not others:
        return []
    # Two specs may name one place, such as another server of the same cluster: its letters are there once
    seen = {"", await present.place() if isinstance(present, DeadLettersOfFunctions) else ""}
    found = []
    for place in others:
        letters = _with(trigger, place).dead_letters(context) or own()
        if not isinstance(letters, DeadLettersOfFunctions):
            continue
        try:
            async with asyncio.timeout(_REACH_SECONDS):
                identity = await letters.place()
        except Exception as error:  # noqa: BLE001  the others have to be shown nevertheless
            problem = str(error) or f"no answer within {_REACH_SECONDS:g} s"
            log.warning("former dead letters out of reach", extra={"trigger": context.name, "problem": problem})
            was = " and ".join(f"spec.{field} was {_text(place[field])}" for field in now if place[field] != now[field])
            unreached(f"dead letters of the time when {was} are out of reach, so their number is not known: {problem}")
        else:
            if identity not in seen:
                seen.add(identity)
                found.append(letters)
    return found


def _place_of(trigger: TriggerSource) -> dict[str, Any]:
    fields = trigger.model_dump(mode="json", include=set(trigger.letter_fields))
    return {**{name: fields[name] for name in trigger.letter_fields}, _NAME: trigger.delivery.dead_letter.name}


def _with(trigger: TriggerSource, place: Place) -> TriggerSource:
    """The trigger as its spec was when that was the place."""
    name = trigger.delivery.dead_letter.model_copy(update={"name": place[_NAME]})
    delivery = trigger.delivery.model_copy(update={"dead_letter": name})
    return trigger.model_copy(update={**{field: place[field] for field in trigger.letter_fields}, "delivery": delivery})


def _text(value: object) -> str:
    return "not set" if value in (None, []) else orjson.dumps(value).decode()


async def _places(context: Context, now: Place) -> list[Place]:
    """The places that are known. A damaged note is only for looking: it stops nothing, and is written anew."""
    found = await kept_state.read(context.state, _PLACES, _places_from)
    if found is None or isinstance(found, Damaged):
        return []
    return [{field: place.get(field, now[field]) for field in now} for place in found]


def _places_from(value: bytes) -> list[Place]:
    places = orjson.loads(value)
    if not isinstance(places, list) or not all(isinstance(place, dict) for place in places):
        raise TypeError("it is no list of places")
    return places
