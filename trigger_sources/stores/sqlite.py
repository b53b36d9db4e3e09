"""The fabric's own durable store on one machine: one SQLite file with states, dead letters and inboxes."""

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trigger_sources.context import SourceError
from trigger_sources.dead_letters import (
    DeadLetter,
    Unreadable,
    letter_from_metadata,
    log_unreadable,
    metadata_from_letter,
)
from trigger_sources.delivery import Outcome
from trigger_sources.dispatch.former_target import TARGET_KEY, Decision, Former, is_to_be_noted
from trigger_sources.inbox import Kept
from trigger_sources.stores import crash_counts

log = logging.getLogger(__name__)
T = TypeVar("T")

_VERSION = 1
_SCHEMA = """
CREATE TABLE state (
    uid TEXT NOT NULL, function TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (uid, function, key)
) WITHOUT ROWID;
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY,
    uid TEXT NOT NULL, function TEXT NOT NULL, position TEXT NOT NULL,
    failed_at REAL NOT NULL, metadata BLOB NOT NULL, data BLOB,
    UNIQUE (uid, function, position)
);
CREATE INDEX dead_letters_by_age ON dead_letters (uid, failed_at, number);
CREATE TABLE inbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX inbox_by_uid ON inbox (uid, sequence);
"""
_LETTERS_A_READ = 64
_PROBE_BYTES = 65_536  # more than the pages that a full disk may still have free
_TAKEN_BYTES = 8 * 1024 * 1024  # one look into an inbox reads no more, and one record in any case
_MOST_IN_A_TRANSACTION = 1_000
_TRY_AGAIN_SECONDS = 5.0  # a record that could not be removed is handed out again then, to be settled once more


class StoreError(SourceError):
    """The store's file cannot be used. The text names the file and the way out."""


class Store:
    """One file, one process, one writer. Every method that writes returns once its write is durable.

    Writes that arrive during a transaction go into the next one together: a disk flush for each would cost a hundred
    times the write. Lives in one event loop. Every method may raise StoreError.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor, crashes: Mapping[int, int]
    ) -> None:
        self.path = path
        self.crashes = crashes  # of earlier processes, by the sequence of the inbox's record
        self._connection = connection
        self._thread = thread
        self._waiting: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self._inboxes: dict[str, StoreInbox] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str | Path) -> AsyncIterator["Store"]:
        """The store in that file. Creates the file and its folder if needed. One process at a time may open it."""
        path = Path(path)
        loop = asyncio.get_running_loop()
        # SQLite's connection and every use of it stay in this one thread
        with ThreadPoolExecutor(1, thread_name_prefix="store") as thread:
            connection, crashes = await loop.run_in_executor(thread, _connect, path)
            store = cls(path, connection, thread, crashes)
            try:
                yield store
            finally:
                store._closed = True
                if store._writer is not None:
                    await asyncio.wait({store._writer})
                await loop.run_in_executor(thread, _close, path, connection)

    def state(self, uid: str, function: str) -> "StoreState":
        """The small durable state of that trigger and function."""
        return StoreState(self, uid, function)

    async def hand_over(self, uid: str, function: str, decide: Decision) -> Former:
        return await self.run(partial(_hand_over, uid, function, decide))

    def dead_letters(self, uid: str, function: str) -> "StoreDeadLetters":
        """The dead letters of that trigger and function."""
        return StoreDeadLetters(self, uid, function)

    def inbox(self, uid: str) -> "StoreInbox":
        """The durable queue of that trigger: always the same object, which knows the held records."""
        return self._inboxes.setdefault(uid, StoreInbox(self, uid))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in the writer's thread; returns its result once everything that it wrote is durable.

        `work` must be repeatable: if the transaction that it shares with others fails, it runs again alone.
        """
        if self._closed:
            raise StoreError("StoreClosed", f"{self.path}: the store is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        """Writes transaction after transaction until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[:_MOST_IN_A_TRANSACTION]
            del self._waiting[:_MOST_IN_A_TRANSACTION]
            works = [work for work, _ in batch]
            results = await loop.run_in_executor(self._thread, _transact, self._connection, works)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue  # the caller was cancelled; its work is done nevertheless
                if isinstance(result, sqlite3.Error):
                    done.set_exception(_explained(self.path, result))
                elif isinstance(result, BaseException):
                    done.set_exception(result)
                else:
                    done.set_result(result)


class StoreState:
    """A `source.State` in the store."""

    def __init__(self, store: Store, uid: str, function: str) -> None:
        self._store = store
        self._owner = (uid, function)

    async def get(self, key: str) -> bytes | None:
        row = await self._store.run(
            lambda connection: connection.execute(
                "SELECT value FROM state WHERE uid = ? AND function = ? AND key = ?", (*self._owner, key)
            ).fetchone()
        )
        return None if row is None else bytes(row[0])

    async def put(self, key: str, value: bytes) -> None:
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                    (*self._owner, key, value),
                ).rowcount
            )
        )

    async def delete(self, key: str) -> None:
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM state WHERE uid = ? AND function = ? AND key = ?", (*self._owner, key)
                ).rowcount
            )
        )


class StoreDeadLetters:
    """A `dead_letters.DeadLetters` in the store."""

    def __init__(
        self, store: Store, uid: str, function: str, unreadable: Callable[[Unreadable], None] = log_unreadable
    ) -> None:
        self._store = store
        self._uid = uid
        self._function = function
        self._unreadable = unreadable

    async def functions(self) -> list[str]:
        return await self._store.run(
            lambda connection: [
                name
                for (name,) in connection.execute(
                    "SELECT DISTINCT function FROM dead_letters WHERE uid = ?", (self._uid,)
                )
            ]
        )

    def of(self, function: str, unreadable: Callable[[Unreadable], None]) -> "StoreDeadLetters":
        return StoreDeadLetters(self._store, self._uid, function, unreadable)

    async def place(self) -> str:
        return "store"

    async def prepare(self) -> None:
        """Nothing is missing once the store is open."""

    async def write(self, letter: DeadLetter) -> None:
        row = (
            self._uid, letter.function, letter.position,
            letter.failed_at, metadata_from_letter(letter), letter.event.data,
        )  # fmt: skip
        await self._store.run(
            lambda connection: (
                connection.execute(
                    # One that replaces another has a new number: a caller that reads the letters does not meet it again
                    "INSERT OR REPLACE INTO dead_letters (uid, function, position, failed_at, metadata, data)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                ).rowcount
            )
        )

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """Reads a page at a time, so that only few letters are in memory."""
        failed_at, number = float("-inf"), -1
        # Not their times: a clock that was ahead has left letters of the future
        newest: int | None = await self._store.run(
            lambda connection: connection.execute("SELECT max(number) FROM dead_letters").fetchone()[0]
        )
        if newest is None:
            return
        while True:
            page = await self._store.run(self._page(failed_at, number, newest))
            for number, failed_at, position, metadata, data in page:  # noqa: B007  where the next page begins
                try:
                    letter = letter_from_metadata(metadata, data)
                except ValueError as error:
                    place = f"{self._store.path}: dead letter {number}, {self._function}/{position}"
                    self._unreadable(Unreadable(place, str(error)))
                    continue
                yield letter
            if len(page) < _LETTERS_A_READ:
                return

    async def count(self) -> int:
        count: int = await self._store.run(
            lambda connection: connection.execute(
                "SELECT COUNT(*) FROM dead_letters WHERE uid = ? AND function = ?",
                (self._uid, self._function),
            ).fetchone()[0]
        )
        return count

    async def remove(self, letter: DeadLetter) -> None:
        identity = (self._uid, letter.function, letter.position)
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "DELETE FROM dead_letters WHERE uid = ? AND function = ? AND position = ?", identity
                ).rowcount
            )
        )

    async def close(self) -> None:
        """Does nothing: the owner of the store closes it."""

    def _page(
        self, failed_at: float, number: int, newest: int
    ) -> Callable[[sqlite3.Connection], list[tuple[int, float, str, bytes, bytes | None]]]:
        return lambda connection: connection.execute(
            "SELECT number, failed_at, position, metadata, data FROM dead_letters"
            " WHERE uid = ? AND (failed_at, number) > (?, ?) AND number <= ? AND function = ?"
            " ORDER BY failed_at, number LIMIT ?",
            (self._uid, failed_at, number, newest, self._function, _LETTERS_A_READ),
        ).fetchall()


class StoreInbox:
    """An `inbox.Inbox` in the store. Only this process uses the file, so held records are known in memory."""

    largest_bytes = None
    must_give_back = False

    def __init__(self, store: Store, uid: str) -> None:
        self._store = store
        self._uid = uid
        self._newest = 0  # the highest sequence that was handed out
        self._held: dict[int, object] = {}  # by sequence: a token for this hand-out
        self._given_back: dict[int, float] = {}  # by sequence: when it may be taken again, by the loop's clock
        # By sequence, of held and given back records: how often it was handed out
        self._times: dict[int, int] = dict(store.crashes)
        self._news = asyncio.Event()
        self._news.set()  # there may be records of an earlier process

    async def prepare(self) -> None:
        """Nothing is missing once the store is open."""

    async def check_room(self, size: int) -> None:
        """Writes a record that belongs to no trigger, and removes it: only a write shows whether the disk has room."""
        await self._store.run(
            lambda connection: (
                connection.execute(
                    "INSERT INTO inbox (uid, record) VALUES ('', zeroblob(?))", (max(size, _PROBE_BYTES),)
                ).rowcount
            )
        )
        await self._store.run(lambda connection: connection.execute("DELETE FROM inbox WHERE uid = ''").rowcount)

    async def append_all(self, records: Sequence[bytes], batch: str = "") -> None:  # a failed one left no record
        rows = [(self._uid, record) for record in records]
        try:
            await self._store.run(
                lambda connection: (
                    connection.executemany("INSERT INTO inbox (uid, record) VALUES (?, ?)", rows).rowcount
                )
            )
        finally:
            self._news.set()  # even if it is cancelled: the records may be written nevertheless

    async def take(self, limit: int, timeout_seconds: float, *, in_order: bool = False) -> list[Kept]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            now = clock()
            due = sorted(sequence for sequence, at in self._given_back.items() if at <= now)[:limit]
            if due or self._news.is_set():
                self._news.clear()
                try:
                    kept = await self._take(due, limit)
                except BaseException:
                    self._news.set()  # the next call must look again
                    raise
                if len(kept) == limit or sum(len(one.record) for one in kept) >= _TAKEN_BYTES:
                    self._news.set()  # there may be more
                if kept:
                    return kept
            if clock() >= deadline:
                return []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min([deadline, *self._given_back.values()])):
                    await self._news.wait()

    async def count(self) -> int:
        (count,) = await self._store.run(
            lambda connection: connection.execute("SELECT count(*) FROM inbox WHERE uid = ?", (self._uid,)).fetchone()
        )
        return int(count)

    async def give_back(self) -> None:
        for sequence in list(self._held):
            self._release(sequence, 0)

    async def _take(self, due: Sequence[int], limit: int) -> list[Kept]:
        newest = self._newest

        def read(connection: sqlite3.Connection) -> tuple[list[tuple[int, bytes]], list[int]]:
            found: list[tuple[int, bytes]] = []
            settled, size = [], 0
            for sequence in due:
                rows = connection.execute(
                    "SELECT sequence, record FROM inbox WHERE sequence = ?", (sequence,)
                ).fetchall()
                if not rows:
                    settled.append(sequence)
                found += rows
                size += sum(len(record) for _, record in rows)
                if size >= _TAKEN_BYTES:
                    return found, settled
            newer = connection.execute(
                "SELECT sequence, record FROM inbox WHERE uid = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (self._uid, newest, limit - len(found)),
            )
            for row in newer:
                found.append(row)
                size += len(row[1])
                if size >= _TAKEN_BYTES:
                    break
            return found, settled

        rows, settled = await self._store.run(read)
        for sequence in settled:
            self._given_back.pop(sequence, None)  # it settled after all
        kept = []
        for sequence, record in rows:
            if self._given_back.pop(sequence, None) is None and sequence <= self._newest:
                continue  # another call of `take` was faster
            self._newest = max(self._newest, sequence)
            self._times[sequence] = self._times.get(sequence, 0) + 1
            hold = self._held[sequence] = object()
            settle = partial(self._settle, sequence, hold)
            kept.append(Kept(str(sequence), record, settle, handed_out=self._times[sequence]))
        return kept

    async def _settle(self, sequence: int, hold: object, outcome: Outcome) -> None:
        if outcome.final:
            try:
                await self._store.run(
                    lambda connection: connection.execute("DELETE FROM inbox WHERE sequence = ?", (sequence,)).rowcount
                )
            except StoreError:
                if self._held.get(sequence) is hold:
                    self._release(sequence, _TRY_AGAIN_SECONDS)
                raise
            for known in (self._held, self._given_back, self._times):
                known.pop(sequence, None)
        elif self._held.get(sequence) is hold:
            self._release(sequence, outcome.after_seconds)

    def _release(self, sequence: int, after_seconds: float) -> None:
        del self._held[sequence]
        self._given_back[sequence] = asyncio.get_running_loop().time() + after_seconds
        self._news.set()


def _transact(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
    """The result or exception of each work: all in one transaction or, if that fails, each in its own."""
    try:
        return _in_one_transaction(connection, works)
    except Exception as error:  # noqa: BLE001  raised again in the caller of `run`
        if len(works) == 1:
            return [error]
        # A write that fails must not make the others fail
        return [result for work in works for result in _transact(connection, [work])]


def _hand_over(uid: str, function: str, decide: Decision, connection: sqlite3.Connection) -> Former:
    rows = connection.execute("SELECT DISTINCT function FROM state WHERE uid = ? AND function <> ''", (uid,))
    with_state = frozenset(name for (name,) in rows)
    note = connection.execute(
        "SELECT value FROM state WHERE uid = ? AND function = '' AND key = ?", (uid, TARGET_KEY)
    ).fetchone()
    noted = bytes(note[0]).decode(errors="replace") if note is not None else None
    former = decide(noted, with_state)
    if former.function is not None:
        connection.execute("DELETE FROM state WHERE uid = ? AND function = ?", (uid, function))
        connection.execute(
            "UPDATE state SET function = ? WHERE uid = ? AND function = ?", (function, uid, former.function)
        )
    if is_to_be_noted(function, noted, with_state):
        connection.execute("INSERT OR REPLACE INTO state VALUES (?, '', ?, ?)", (uid, TARGET_KEY, function.encode()))
    return former


def _in_one_transaction(
    connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]
) -> list[Any]:
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = [work(connection) for work in works]
        connection.execute("COMMIT")
        return results
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _connect(path: Path) -> tuple[sqlite3.Connection, dict[int, int]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size == 0:
            advice = "it begins anew; if it had events, stop, and restore a copy of it"
            log.warning("store is an empty file", extra={"path": str(path), "problem": advice})
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    except OSError as error:
        raise StoreError("StoreUnavailable", f"{path}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    try:
        # A damaged text must not stop the reading of other rows
        connection.text_factory = partial(str, encoding="utf-8", errors="backslashreplace")
        # Only this process uses the file while it is open: a second fabric gets an error
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise StoreError(
                "StoreVersion",
                f"{path}: written by another version of kubeirq (format {version}, known: {_VERSION});"
                " use that version, or another file",
            )
        crashes = crash_counts.opened(connection)  # takes the lock now, not with the first write
    except sqlite3.Error as error:
        connection.close()
        raise _explained(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection, crashes


def _close(path: Path, connection: sqlite3.Connection) -> None:
    try:
        crash_counts.closed(connection)
    except sqlite3.Error as error:
        log.warning("store not closed in order", extra={"path": str(path), "problem": str(error)})
    connection.close()


def _room_at(folder: Path) -> str:
    """The size of the disk that has the folder."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError as error:
        return f"{folder}: {error}"
    return f"the disk of {folder} has {disk.free / 2**20:.0f} of {disk.total / 2**20:.0f} MiB free"


def _explained(path: Path, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extended part
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        reason, advice = "StoreLocked", "another process has it open; stop that one, or use another folder"
    elif code == sqlite3.SQLITE_FULL:
        reason, advice = "StoreFull", f"free some space: {_room_at(path.resolve().parent)}"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        reason, advice = "StoreCorrupt", "it is damaged or not a store; move it away and restore a copy of it"
    else:
        reason, advice = "StoreUnavailable", "check the disk and the rights to the file"
    problem = StoreError(reason, f"{path}: {error}; {advice}")
    problem.__cause__ = error
    return problem
