"""The gate to one function, shared by the triggers of a process: its address, whether it is down, and its limit."""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable

from trigger_sources.backoff import Backoff
from trigger_sources.transport.client import Endpoint, Resolve

log = logging.getLogger(__name__)

_FIRST_PROBE_SECONDS = 0.1
_PROBE_MAX_SECONDS = 5.0
_UNLIMITED = 1 << 30


class Gate:
    """Open: events flow. Closed: the function is down, nothing is called but one probe at growing intervals.

    After it opens the flow ramps up: one more call at once for each success. Where the function's concurrency is known,
    no more calls are outstanding than it can answer in a quarter of the time that each of them has.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        serves: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.concurrency: int | None = None  # the number of calls that the function says it runs at once
        self.in_flight = 0
        self.down_since: float | None = None  # seconds since the epoch
        self.down_reason = ""
        # Why a call that began then (in seconds of the monotonic clock) lost its connection; empty if it is not known
        self.why_lost: Callable[[float], Awaitable[str]] | None = None
        self._tls = tls
        self._resolve = resolve
        self._serves = serves  # whether a watcher knows of a process that serves the function
        self._waiting: dict[Callable[[], None], None] = {}  # flows that have events and may not start them, in order
        self._ramp = _UNLIMITED
        self._queue_bound = _UNLIMITED
        self._probing = False
        self._backoff = Backoff(_FIRST_PROBE_SECONDS, _PROBE_MAX_SECONDS)
        self._probe_timer: asyncio.TimerHandle | None = None
        self._closed = False  # a watcher of the function says that it is not there
        self._known_down = False  # and is sure of it
        self._retired: set[asyncio.Task[None]] = set()
        self.move(url)

    def move(self, url: str) -> None:
        """From now on the function is there. Calls under way end where they began."""
        old = getattr(self, "endpoint", None)
        self.url = url
        self.endpoint = Endpoint(url, tls=self._tls, resolve=self._resolve, serves=self._serves)
        if old is not None:
            task = asyncio.ensure_future(old.close())
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)

    async def aclose(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        await self.endpoint.close()
        await asyncio.gather(*self._retired)

    @property
    def is_down(self) -> bool:
        return self.down_since is not None

    @property
    def may_probe(self) -> bool:
        """Whether one call would be let through though the function is down."""
        return not self._known_down and not self._probing and self._probe_timer is None

    def admits(self, waiting: Callable[[], None]) -> bool:
        """Whether one call may start now; it must be followed by `answered` or `unreachable`.

        If not, `waiting` is called once it is worth asking again.
        """
        if self.down_since is None:
            if self.in_flight < self._ramp and self.in_flight < self._queue_bound:
                self.in_flight += 1
                return True
        elif self.may_probe:
            self._probing = True
            self.in_flight += 1
            return True
        self._waiting[waiting] = None
        return False

    def leave(self, waiting: Callable[[], None]) -> None:
        """The flow goes away: it is not called any more."""
        self._waiting.pop(waiting, None)

    def answered(self, latency_seconds: float, timeout_seconds: float, ok: bool) -> None:
        """A call ended in any way but `unreachable`: the function is there."""
        self.in_flight -= 1
        if self.down_since is not None:
            self._answered_while_down()
        if ok and self._ramp != _UNLIMITED:
            self._ramp = self._ramp + 1 if self._ramp < 1024 else _UNLIMITED
        if latency_seconds > 0.05 or self._queue_bound != _UNLIMITED:
            self._bound_queue(latency_seconds, timeout_seconds)
        if self._waiting:
            self._wake_next()

    def abandoned(self) -> None:
        """A call was given up from this side: it says nothing about the function."""
        self.in_flight -= 1
        self._probing = False
        if self._waiting:
            self._wake_next()

    def unreachable(self, reason: str) -> None:
        """A call never reached the function: it is down."""
        self.in_flight -= 1
        was_probe, self._probing = self._probing, False
        if self.down_since is None:
            self.down_since = time.time()
            self._backoff.reset()
            log.warning("function down", extra={"function": self.name, "reason": reason})
        elif was_probe:
            self._backoff.next()
        if not self._closed:
            self.down_reason = reason
        self._probe_later()

    def close(self, reason: str, *, probe: bool = False) -> None:
        """A watcher knows that no process serves the function: not even a probe is made until `open`.

        `probe`: the watcher may have missed something. One call is still let through every five seconds. Its answer
        opens the gate; the answer of a call that began before does not.
        """
        self._closed = True
        self._known_down = not probe
        self.down_reason = reason
        if self.down_since is None:
            self.down_since = time.time()
        if probe:
            self._backoff.seconds = _PROBE_MAX_SECONDS
            self._probe_later()

    def open(self) -> None:
        """It is known to be ready: held events start at once."""
        if self.down_since is not None:
            self._up()

    def _up(self) -> None:
        log.info(
            "function up", extra={"function": self.name, "seconds": round(time.time() - (self.down_since or 0), 1)}
        )
        self.down_since = None
        self.down_reason = ""
        self._closed = self._known_down = False
        self._probing = False
        self._backoff.reset()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None
        self._ramp = max(2, self.in_flight + 1)
        self._wake_all()

    def _answered_while_down(self) -> None:
        was_probe, self._probing = self._probing, False
        if not self._closed or (was_probe and not self._known_down):
            self._up()

    def _probe_later(self) -> None:
        if self._probe_timer is None and not self._probing and not self._known_down:
            self._probe_timer = asyncio.get_running_loop().call_later(self._backoff.seconds, self._probe_due)

    def _probe_due(self) -> None:
        self._probe_timer = None
        self._wake_all()

    def _bound_queue(self, latency_seconds: float, timeout_seconds: float) -> None:
        """Little's law: with n outstanding and c running, each waits about n/c times what one call takes."""
        if self.concurrency is None:
            return
        one_call = latency_seconds * self.concurrency / max(self.in_flight + 1, self.concurrency)
        if one_call <= 0.001:
            self._queue_bound = _UNLIMITED
        else:
            self._queue_bound = max(self.concurrency, int(self.concurrency * timeout_seconds / 4 / one_call))

    def _wake_next(self) -> None:
        """Wakes one flow after the other, until one starts a call or is refused again.

        A flow whose events are gone by now starts none, and would keep the others waiting.
        """
        for _ in range(len(self._waiting)):
            wake = next(iter(self._waiting), None)
            if wake is None:
                return
            del self._waiting[wake]
            in_flight = self.in_flight
            wake()
            if self.in_flight > in_flight or wake in self._waiting:
                return

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:
            wake()
