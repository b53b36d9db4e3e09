"""Metrics and health of a process on a port."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain

from aiohttp import web

from trigger_sources.dispatch.counters import Reading
from trigger_sources.observe.metrics import Metric, exposition
from trigger_sources.observe.process import ProcessMetrics


@asynccontextmanager
async def metrics_endpoint(
    host: str,
    port: int,
    *,
    readings: Callable[[], Iterable[Reading]],
    waiting: Callable[[], Sequence[str]],
    metrics: Callable[[], Iterable[Metric]] = lambda: (),
) -> AsyncIterator[str]:
    """Serves /metrics, /healthz (the event loop runs) and /readyz (the process is ready). Yields its address.

    `waiting` returns the reasons why the process is not ready, a line each. /metrics has the readings, `metrics`, and
    those of the process.
    """
    process = ProcessMetrics()

    async def show(_: web.Request) -> web.Response:
        headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        text = exposition(readings(), chain(metrics(), process.metrics()))
        return web.Response(text=text, headers=headers)

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        lines = waiting()
        return web.Response(text="\n".join(lines) + "\n" if lines else "ok\n", status=503 if lines else 200)

    application = web.Application()
    routes = [web.get("/metrics", show), web.get("/healthz", alive), web.get("/readyz", ready)]
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        async with process.measuring():
            yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
