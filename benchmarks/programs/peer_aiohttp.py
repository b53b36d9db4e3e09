"""The same tiny handler on aiohttp's server: peer_aiohttp.py PORT."""

import sys

import uvloop
from aiohttp import web


async def handle(request: web.Request) -> web.Response:
    body = await request.json() if request.method == "POST" else {"id": ""}
    return web.json_response({"ok": True, "id": body["id"]})


if __name__ == "__main__":
    uvloop.install()
    app = web.Application()
    app.router.add_route("*", "/", handle)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
