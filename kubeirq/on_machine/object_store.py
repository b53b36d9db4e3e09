"""An object store in one SQLite file. It serves the part of the S3 protocol that the embedded Kafka broker uses.

The broker stores everything as objects, and cannot store anything on disk itself. `brokers.py` starts this program
beside it: `python -m kubeirq.on_machine.object_store FILE PORT`. The environment has the name of the only bucket, which
is a secret: requests to other buckets get 404. After a PUT is answered, its object survives the end of any process.
"""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import httptools
import uvloop

BUCKET_VARIABLE = "KUBEIRQ_BUCKET"
_PAGE = 1000
_BODY_MAX_BYTES = 128 * 1024 * 1024
_LAST = "\U0010ffff"  # sorts after every character that can follow in a key
_REASONS = {200: "OK", 204: "No Content", 304: "Not Modified", 404: "Not Found"}
_REASONS |= {400: "Bad Request", 405: "Method Not Allowed", 412: "Precondition Failed", 413: "Content Too Large"}


class Stored(NamedTuple):
    data: bytes
    etag: str
    modified: float  # seconds since the epoch


class Entry(NamedTuple):
    key: str
    etag: str
    modified: float
    size_bytes: int


class Page(NamedTuple):
    """Some keys in order. The next page starts after `last`; None means that there is none."""

    entries: list[Entry]
    prefixes: list[str]
    last: str | None


class Objects:
    """The objects in the file. A conditional write checks its condition and writes in one step."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # With `normal`, writes survive a killed process. A power cut may lose the last moments, as with Kafka
        self._database.executescript(
            """
            pragma journal_mode = wal;
            pragma synchronous = normal;
            create table if not exists objects
                (key text primary key, data blob not null, etag text not null, modified real not null) without rowid;
            """
        )
        self._versions = time.time_ns()

    def get(self, key: str) -> Stored | None:
        row = self._database.execute("select data, etag, modified from objects where key = ?", (key,)).fetchone()
        return None if row is None else Stored(*row)

    def put(self, key: str, data: bytes, *, if_match: str | None = None, only_new: bool = False) -> str | None:
        """Writes the object and returns its new entity tag. Returns None if the condition does not hold."""
        self._versions += 1
        row = (key, data, f'"{self._versions:x}"', time.time())
        if if_match is not None:
            done = self._database.execute(
                "update objects set key = ?, data = ?, etag = ?, modified = ? where key = ? and etag = ?",
                (*row, key, if_match),
            )
        else:
            conflict = "ignore" if only_new else "replace"
            done = self._database.execute(f"insert or {conflict} into objects values (?, ?, ?, ?)", row)  # noqa: S608
        return row[2] if done.rowcount == 1 else None

    def delete(self, *keys: str) -> None:
        """Removes these objects in one step, as far as they are there."""
        self._database.execute("begin immediate")
        try:
            self._database.executemany("delete from objects where key = ?", [(key,) for key in keys])
        except BaseException:
            self._database.execute("rollback")
            raise
        self._database.execute("commit")

    def page(self, prefix: str, delimiter: str, after: str) -> Page:
        """The keys that begin with `prefix` and sort after `after`. Keys with the delimiter become one prefix."""
        entries: list[Entry] = []
        prefixes: list[str] = []
        # With a delimiter, one row may stand for thousands: skip all keys with the same prefix at once
        limit = 1 if delimiter else _PAGE
        while len(entries) + len(prefixes) < _PAGE:
            rows = self._database.execute(
                "select key, etag, modified, length(data) from objects where key > ? and key >= ? order by key limit ?",
                (after, prefix, limit),
            ).fetchall()
            for entry in map(Entry._make, rows):
                if not entry.key.startswith(prefix):
                    return Page(entries, prefixes, None)
                end = entry.key.find(delimiter, len(prefix)) if delimiter else -1
                if end < 0:
                    entries.append(entry)
                    after = entry.key
                else:
                    prefixes.append(entry.key[: end + len(delimiter)])
                    after = prefixes[-1] + _LAST
            if len(rows) < limit:
                return Page(entries, prefixes, None)
        return Page(entries, prefixes, after)

    def close(self) -> None:
        self._database.close()


class Request(NamedTuple):
    method: str
    path: str  # percent-encoded
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


def answer_to(request: Request, objects: Objects, bucket: str) -> Answer:
    """Executes one request. Any other bucket gets 404."""
    found, _, escaped_key = request.path[1:].partition("/")
    if found != bucket:
        return Answer(404)
    key = unquote(escaped_key)
    match request.method:
        case "GET" if not key:
            return _listing(request.query, objects)
        case "GET" | "HEAD":
            return _object(key, request.headers, objects)
        case "PUT":
            etag = objects.put(
                key,
                request.body,
                if_match=request.headers.get("if-match"),
                only_new=request.headers.get("if-none-match") == "*",
            )
            return Answer(412) if etag is None else Answer(200, {"etag": etag})
        case "DELETE":
            objects.delete(key)
            return Answer(204)
        case "POST" if not key and "delete" in request.query:
            return _deletion(request.body, objects)
    return Answer(405)


def _object(key: str, headers: dict[str, str], objects: Objects) -> Answer:
    stored = objects.get(key)
    if stored is None:
        return Answer(404)
    described = {"etag": stored.etag, "last-modified": formatdate(stored.modified, usegmt=True)}
    if headers.get("if-none-match") == stored.etag:
        return Answer(304, described)
    if headers.get("if-match", stored.etag) != stored.etag:
        return Answer(412, described)
    return Answer(200, described, stored.data)


def _listing(query: dict[str, str], objects: Objects) -> Answer:
    after = query.get("continuation-token") or query.get("start-after", "")
    page = objects.page(query.get("prefix", ""), query.get("delimiter", ""), after)
    parts = ["<ListBucketResult>", f"<IsTruncated>{'true' if page.last is not None else 'false'}</IsTruncated>"]
    if page.last is not None:
        parts.append(f"<NextContinuationToken>{escape(page.last)}</NextContinuationToken>")
    parts += [
        f"<Contents><Key>{escape(entry.key)}</Key><LastModified>{_iso(entry.modified)}</LastModified>"
        f"<ETag>{escape(entry.etag)}</ETag><Size>{entry.size_bytes}</Size></Contents>"
        for entry in page.entries
    ]
    parts += [f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
    parts.append("</ListBucketResult>")
    return Answer(200, {"content-type": "application/xml"}, "".join(parts).encode())


def _deletion(body: bytes, objects: Objects) -> Answer:
    """Deletes several objects: the broker does so with a topic's records."""
    try:
        keys = _keys_in(body)
    except ElementTree.ParseError:
        return Answer(400)
    objects.delete(*keys)
    deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
    return Answer(200, {"content-type": "application/xml"}, f"<DeleteResult>{deleted}</DeleteResult>".encode())


def _keys_in(body: bytes) -> Sequence[str]:
    found = ElementTree.fromstring(body)  # noqa: S314  only the broker knows the bucket
    return [element.text or "" for element in found.iterfind("{*}Object/{*}Key")]


def _iso(modified: float) -> str:
    return datetime.fromtimestamp(modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Connection(asyncio.Protocol):
    """One keep-alive connection of the broker. It executes requests one by one."""

    def __init__(self, objects: Objects, bucket: str) -> None:
        self._objects = objects
        self._bucket = bucket
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._size_bytes += len(body)
        if self._size_bytes > _BODY_MAX_BYTES:
            self._send(Answer(413), head_only=False)
            self._transport.close()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Request(
            method,
            path,
            {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()},
            self._headers,
            b"".join(self._body),
        )
        self._send(answer_to(request, self._objects, self._bucket), head_only=method == "HEAD")

    def _send(self, answer: Answer, *, head_only: bool) -> None:
        lines = [f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}"]
        if answer.status not in (204, 304):
            lines.append(f"content-length: {len(answer.body)}")
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self._transport.write(head if head_only else head + answer.body)


async def serve(objects: Objects, bucket: str, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(objects, bucket), sock=listening)
    await stop.wait()
    server.close()


def main(file: str, port: str) -> None:
    objects = Objects(file)
    with socket.create_server(("127.0.0.1", int(port))) as listening:
        try:
            uvloop.run(serve(objects, os.environ[BUCKET_VARIABLE], listening))
        finally:
            objects.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
