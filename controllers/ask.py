"""`python -m controllers.ask` sends one request to this pod's admin API, for a user who may `exec` into the pod.

It reads one line of JSON: `{"method", "path", "query": {…}, "contentType", "body": base64}`. It writes one line of
JSON: `{"status", "headers": {…}}`, or `{"error"}` if the admin API does not respond. Then it writes the response body
as it arrives, in lines of base64, and at last a line with a dot. The protocol needs lines because an exec session can
neither close its input nor mark the end of its output.
"""

import base64
import json
import os
import socket
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import IO
from urllib.parse import urlencode

DEFAULT_SOCKET = "/run/kubeirq/admin.sock"
END = "."
_CHUNK_BYTES = 48 * 1024


def main() -> int:
    path = os.environ.get("KUBEIRQ_ADMIN_SOCKET", DEFAULT_SOCKET)
    for line in answer_lines(path, sys.stdin):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


def answer_lines(path: str, requests: IO[str]) -> Iterator[str]:
    """Reads a request, sends it, and yields the lines to write."""
    asked = json.loads(requests.readline())
    connection = _UnixConnection(path)
    target = asked["path"]
    if asked.get("query"):
        target += f"?{urlencode(asked['query'])}"
    headers = {"content-type": asked.get("contentType") or "application/json"}
    try:
        connection.request(asked["method"], target, base64.b64decode(asked.get("body") or ""), headers)
        answer = connection.getresponse()
    except (OSError, HTTPException) as error:
        yield json.dumps({"error": f"the admin API at {path} does not respond: {error}"})
        yield END
        return
    yield json.dumps({"status": answer.status, "headers": {name.lower(): text for name, text in answer.getheaders()}})
    try:
        while chunk := answer.read1(_CHUNK_BYTES):
            yield base64.b64encode(chunk).decode()
    except (OSError, HTTPException):
        return  # without the end line the client knows that the response is incomplete
    yield END


class _UnixConnection(HTTPConnection):
    """A connection to a Unix socket. It has no time limit, because a redrive may take long."""

    def __init__(self, path: str) -> None:
        super().__init__("admin")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


if __name__ == "__main__":
    sys.exit(main())
