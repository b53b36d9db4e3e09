"""Metrics of the process itself: memory, CPU, the lag of its event loop, and its version."""

import asyncio
import os
import platform
import resource
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from trigger_sources.observe.metrics import Metric

_LAG_PERIOD_SECONDS = 0.5
_LAG_WINDOW = 120  # measurements, a minute
_STATM = Path("/proc/self/statm")  # Linux only


class ProcessMetrics:
    """Lives in one event loop."""

    def __init__(self) -> None:
        self._started = time.time()
        self._lags: deque[float] = deque(maxlen=_LAG_WINDOW)

    @asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Measures the lag of the event loop."""
        task = asyncio.ensure_future(self._measure())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def metrics(self) -> Iterator[Metric]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        build = {"version": version("kubeirq"), "python": platform.python_version()}
        yield Metric.single("kubeirq_build_info", "gauge", "The version of kubeirq and of Python", 1, build)
        yield Metric.single("process_start_time_seconds", "gauge", "Start of the process, since 1970", self._started)
        yield Metric.single(
            "process_cpu_seconds_total", "counter", "CPU time of the process", used.ru_utime + used.ru_stime
        )
        if _STATM.exists():
            resident = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            yield Metric.single("process_resident_memory_bytes", "gauge", "Memory of the process", resident)
        lag = max(self._lags, default=0.0)
        text = "The longest time in the last minute for which the event loop was busy and served nothing else"
        yield Metric.single("kubeirq_event_loop_lag_seconds", "gauge", text, lag)

    async def _measure(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LAG_PERIOD_SECONDS)
            self._lags.append(max(0.0, time.monotonic() - began - _LAG_PERIOD_SECONDS))
