"""Metrics and health of `kubeirq serve` on a port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from kubeirq.fabric import Fabric
from trigger_sources.metrics import exposition


@asynccontextmanager
async def metrics_endpoint(fabric: Fabric, host: str, port: int) -> AsyncIterator[str]:
    """Serves /metrics, /healthz (the loop turns) and /readyz (all triggers are ready). Yields its address."""

    async def metrics(_: web.Request) -> web.Response:
        text = exposition(running.flow.reading() for running in fabric.flows.values())
        return web.Response(text=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        waiting = [
            f"{running.resource.name} → {running.flow.identity.function}: {condition.reason}"
            for running in fabric.flows.values()
            for condition in running.flow.status().conditions[:1]
            if condition.status != "True" and not running.flow.trigger.suspend
        ]
        return web.Response(text="\n".join(waiting) + "\n" if waiting else "ok\n", status=503 if waiting else 200)

    application = web.Application()
    routes = [web.get("/metrics", metrics), web.get("/healthz", alive), web.get("/readyz", ready)]
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
