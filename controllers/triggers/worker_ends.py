"""Asks a function why a call lost its connection: its worker process may have crashed.

The Service leads to any replica, so the function is asked a few times, and the answer may be another replica's than the
one that was called. A Kubernetes Event about the Function says it, too: no condition does, as the function's container
goes on, with another worker.
"""

import asyncio
import time
from collections.abc import Callable

from controllers.cluster.api import GROUP, VERSION
from controllers.cluster.events import EventRecorder, NewEvent
from controllers.functions.worker_ends import WorkerEnd, end_text, lost_text, worker_end_in
from trigger_sources.dispatch.gate import Gate
from trigger_sources.transport.client import NoAnswer, Unreachable

_ASK_SECONDS = 5.0  # a replica answers once its next worker has started
_UNREACHABLE_SECONDS = 1.0  # then the container is gone, too, and not only its worker
_MOST_ANSWERS = 8  # of replicas that know nothing
_PAUSE_SECONDS = 0.1
_TELL_SECONDS = 10.0


class WorkerEnds:
    """The ends of one function's workers. `tell` hears of one that ended calls, at most every ten seconds.

    `has_one_replica` says whether the replica that answers is sure to be the one that was called.
    """

    def __init__(
        self,
        gate: Gate,
        tell: Callable[[WorkerEnd], None],
        *,
        has_one_replica: Callable[[], bool] = lambda: True,
        ask_seconds: float = _ASK_SECONDS,
        unreachable_seconds: float = _UNREACHABLE_SECONDS,
    ) -> None:
        self._has_one_replica = has_one_replica
        self._ask_seconds = ask_seconds
        self._unreachable_seconds = unreachable_seconds
        self._gate = gate
        self._tell = tell
        self._last = WorkerEnd(float("-inf"), "")
        self._told_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def why_lost(self, called_at: float) -> str:
        """Why a call that began then (seconds of the monotonic clock) lost its connection; empty if nobody knows."""
        if self._last.at <= called_at:
            if self._asking is None or self._asking.done():  # all calls that the crash ended ask once
                self._asking = asyncio.create_task(self._ask(called_at))
            await asyncio.wait({self._asking})  # its end by `aclose` cancels no call
        return lost_text(self._last.how, sole=self._has_one_replica()) if self._last.at > called_at else ""

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self, called_at: float) -> None:
        began, answers = time.monotonic(), 0
        until, unreachable_until = began + self._ask_seconds, began + self._unreachable_seconds
        while answers < _MOST_ANSWERS and not self._gate.is_down and (left := until - time.monotonic()) > 0:
            try:
                answer = await self._gate.endpoint.send(b"GET", b"/healthz", b"", b"", timeout_seconds=left, fresh=True)
            except NoAnswer:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            except Unreachable:
                if time.monotonic() >= unreachable_until:
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            end = worker_end_in(dict(answer.headers), time.monotonic())
            if end is not None and end.at > called_at:
                self._last = end
                if end.at - self._told_at > _TELL_SECONDS:
                    self._told_at = end.at
                    self._tell(end)
                return
            answers += 1
            await asyncio.sleep(_PAUSE_SECONDS)


async def record_end(events: EventRecorder, namespace: str, name: str, uid: str, end: WorkerEnd) -> None:
    """Records the Event about the Function."""
    metadata = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": ""}
    text = f"{end_text(end.how)}, and another one runs; `kubeirq logs {name} -n {namespace}` shows what it printed"
    function = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Function", "metadata": metadata}
    await events.record(function, NewEvent("Warning", "WorkerEnded", text))
