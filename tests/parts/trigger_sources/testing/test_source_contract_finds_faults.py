"""The contract's tests fail for sources that break it. Each source here breaks one promise."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trigger_sources import Context, Delivery, Event, Outcome, TriggerSource
from trigger_sources.testing import Origin, SourceContract


class Faulty(TriggerSource):
    """A correct source of files as events. Each subclass has one fault."""

    folder: Path
    acknowledges_at_once: ClassVar[bool] = False
    overfills: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    keeps_what_is_returned: ClassVar[bool] = False
    same_position: ClassVar[bool] = False

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        context.report(connected=True)
        taken: set[str] = set()
        while not context.stopping.is_set():
            new = [file for file in sorted(self.folder.iterdir()) if file.name not in taken]
            if batch := [self.take(file, taken) for file in new[: 99 if self.overfills else context.room]]:
                yield batch
            await asyncio.sleep(0.02)

    def take(self, file: Path, taken: set[str]) -> Delivery:
        taken.add(file.name)
        event = Event(file.name, "/folder", "file", file.read_bytes())
        if self.acknowledges_at_once:
            file.unlink()

        async def settle(outcome: Outcome) -> None:
            if (outcome.final and not self.repeats) or self.keeps_what_is_returned:
                file.unlink(missing_ok=True)
            else:
                taken.discard(file.name)

        return Delivery(event, settle, "here" if self.same_position else file.name)


class AcknowledgesAtOnce(Faulty):
    acknowledges_at_once = True


class Overfills(Faulty):
    overfills = True


class Repeats(Faulty):
    repeats = True


class KeepsWhatIsReturned(Faulty):
    keeps_what_is_returned = True


class SamePosition(Faulty):
    same_position = True


class Contract(SourceContract):
    def __init__(self, kind: type[Faulty], folder: Path) -> None:
        self.kind, self.folder = kind, folder

    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        made = 0

        async def produce(count: int) -> None:
            nonlocal made
            for _ in range(count):
                made += 1
                (self.folder / f"{made}.txt").write_bytes(b"")

        trigger = self.kind.model_validate({"function": "f", "folder": str(self.folder)})
        yield Origin(trigger, produce, patience_seconds=2)


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (AcknowledgesAtOnce, "after_a_crash_unsettled_events_come_again_and_settled_ones_do_not"),
        (AcknowledgesAtOnce, "a_late_settle_does_no_harm"),
        (Overfills, "a_source_yields_no_more_events_than_there_is_room_for"),
        (Repeats, "after_a_crash_unsettled_events_come_again_and_settled_ones_do_not"),
        (KeepsWhatIsReturned, "returned_events_go_to_another_replica_without_a_time_out"),
        (SamePosition, "every_event_has_its_attributes_and_a_position_of_its_own"),
    ],
)
async def test_a_source_that_breaks_a_promise_fails_its_test(kind: type[Faulty], promise: str, tmp_path: Path) -> None:
    test: Any = getattr(Contract(kind, tmp_path), f"test_{promise}")
    with pytest.raises(AssertionError):
        await test()


async def test_the_same_source_without_a_fault_passes(tmp_path: Path) -> None:
    for number, name in enumerate(name for name in dir(SourceContract) if name.startswith("test_")):
        folder, own = tmp_path / f"in{number}", tmp_path / f"own{number}"
        folder.mkdir()
        own.mkdir()
        test: Any = getattr(Contract(Faulty, folder), name)
        await (test(tmp_path=own) if "tmp_path" in test.__func__.__code__.co_varnames[:2] else test())
