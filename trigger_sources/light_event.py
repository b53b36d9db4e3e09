"""An `asyncio.Event` for objects of which a process has thousands."""

import asyncio


class LightEvent(asyncio.Event):
    """Takes 600 bytes less: an empty deque already has room for 64 waiters, and these events have one at most times."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters: list[asyncio.Future[bool]] = []  # type: ignore[assignment]
