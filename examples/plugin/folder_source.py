"""Turns each new file in a folder into an event. After the event is settled, the file moves to the subfolder `done`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

from trigger_sources import Context, Delivery, Event, Outcome, TriggerSource


class FolderTrigger(TriggerSource):
    """Calls a function for each file that appears in a folder."""

    folder: Path

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        context.report(connected=True)
        taken: set[str] = set()
        while not context.stopping.is_set():
            new = [file for file in sorted(self.folder.iterdir()) if file.is_file() and position_of(file) not in taken]
            if batch := [self.take(file, taken) for file in new[: context.room]]:
                yield batch
            await asyncio.sleep(0.2)

    def take(self, file: Path, taken: set[str]) -> Delivery:
        taken.add(position := position_of(file))
        event = Event(position, f"/folders/{self.folder.name}", "file.created", file.read_bytes(), subject=file.name)
        return Delivery(event, partial(self.settle, file, position, taken), position, key=file.suffix.encode())

    async def settle(self, file: Path, position: str, taken: set[str], outcome: Outcome) -> None:
        if outcome.final and file.exists():
            (self.folder / "done").mkdir(exist_ok=True)
            file.rename(self.folder / "done" / file.name)
        taken.discard(position)


def position_of(file: Path) -> str:
    return f"{file.name}@{file.stat().st_mtime_ns}/{file.stat().st_ino}"
