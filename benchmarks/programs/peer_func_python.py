"""The same tiny handler on func-python, as Knative Functions runs it: peer_func_python.py, with the port in PORT."""

import json

from func_python.http import serve


class Function:
    async def handle(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = json.dumps({"ok": True, "id": json.loads(body)["id"]}).encode() if body else b"{}"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})


def new():
    return Function()


if __name__ == "__main__":
    serve(new)
