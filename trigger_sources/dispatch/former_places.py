"""Dead letters in a place that the spec named before: they stay there, and a person hears of them."""

import logging

import orjson

from trigger_sources import kept_state
from trigger_sources.context import Context
from trigger_sources.kept_state import Damaged
from trigger_sources.source import TriggerSource

log = logging.getLogger(__name__)

_NAMES = "dead-letter-names"  # all that the spec has had; the one that is made from the trigger's needs no note
_FIELD = "spec.delivery.deadLetter.name"


async def remember_place(trigger: TriggerSource, context: Context) -> None:
    """Notes the name that the spec has for the place. Raises SourceError."""
    name = trigger.delivery.dead_letter.name
    if name is None:
        return
    names = await _names(context)
    if name not in names:
        await context.state.put(_NAMES, orjson.dumps([*names, name]))


async def left_letters(trigger: TriggerSource, context: Context) -> list[str]:
    """A line for each former place with dead letters of this trigger and function, with their number and the way out.

    Raises SourceError.
    """
    lines = []
    for name in [*(await _names(context)), None]:
        if name == trigger.delivery.dead_letter.name:
            continue
        place = trigger.delivery.dead_letter.model_copy(update={"name": name})
        delivery = trigger.delivery.model_copy(update={"dead_letter": place})
        letters = trigger.model_copy(update={"delivery": delivery}).dead_letters(context)
        if letters is None:
            return []  # they are in the fabric's own store, whatever the name
        where, way_out = (repr(name), f"set it to {name!r}") if name else ("the default place", "take it out")
        try:
            count = await letters.count()
        except Exception as error:  # noqa: BLE001  the present place has to be shown nevertheless
            log.warning("former dead letters not counted", extra={"trigger": context.name, "error": repr(error)})
            lines.append(
                f"dead letters in {where}, from before {_FIELD} was changed: their number is not known: {error}"
            )
            continue
        if count:
            lines.append(
                f"{count} dead letters in {where}, from before {_FIELD} was changed; to redrive or purge them,"
                f" {way_out} for as long as that takes"
            )
    return lines


async def _names(context: Context) -> list[str]:
    """The names that are known. A damaged note is only for looking: it stops nothing, and is written anew."""
    found = await kept_state.read(context.state, _NAMES, _names_from)
    return [] if found is None or isinstance(found, Damaged) else found


def _names_from(value: bytes) -> list[str]:
    names = orjson.loads(value)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("it is no list of names")
    return names
