"""`python -m controllers.ask`: one request to this pod's admin API, for whoever may `exec` into the pod.

Reads one line, JSON: `{"method", "path", "query": {…}, "contentType", "body": base64}`. Writes one line, JSON:
`{"status", "headers": {…}}`, or `{"error"}` where nothing answers; then the answer's body as it comes, base64 in
lines; then a line with a dot. Lines, since an exec cannot end what it sends, nor say where what it receives ends.
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
    """What is to be written for the request that is read from there."""
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
        yield json.dumps({"error": f"no admin API answers at {path}: {error}"})
        yield END
        return
    yield json.dumps({"status": answer.status, "headers": {name.lower(): text for name, text in answer.getheaders()}})
    try:
        while chunk := answer.read1(_CHUNK_BYTES):
            yield base64.b64encode(chunk).decode()
    except (OSError, HTTPException):
        return  # the end line is missing: who asked sees that the answer is not whole
    yield END


class _UnixConnection(HTTPConnection):
    """To a socket of this machine. No time limit: a redrive takes as long as it takes."""

    def __init__(self, path: str) -> None:
        super().__init__("admin")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


if __name__ == "__main__":
    sys.exit(main())
