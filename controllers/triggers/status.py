"""One trigger's status: its conditions for people, and the durable state of its source, written by one replica."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from controllers.cluster.api import Api, Object, Refused, path_of
from trigger_sources.source import SourceError

log = logging.getLogger(__name__)

_BETWEEN_WRITES_SECONDS = 1.0
_AGAIN_SECONDS = 1.0
_TERM = "term"  # in the state: the term of the Lease under which it was written


class TriggerStatus:
    """Changes come together into one write a second, and wait out an API server that is away.

    `term` is the Lease's while this replica holds the trigger, None when it does not: what an earlier holder still
    writes is refused, since a later one has left its term. Without `fenced` every replica may write. `turns` is shared
    by the triggers of a process: a thousand that start together ask the API server one after the other.
    """

    def __init__(
        self,
        api: Api,
        trigger: Mapping[str, Any],
        *,
        term: Callable[[], int | None],
        fenced: bool,
        turns: asyncio.Semaphore | None = None,
    ) -> None:
        metadata = trigger["metadata"]
        self.uid: str = metadata["uid"]
        self._api = api
        self._path = path_of(trigger["apiVersion"], trigger["kind"], metadata["namespace"], metadata["name"])
        self._term = term
        self._turns = turns or asyncio.Semaphore(1)
        self.fenced = fenced
        self._live: Object | None = None  # as it was read or written last
        self._waiting: Object = {}  # what the next write changes
        self._next: asyncio.Task[None] | None = None
        self._written_at = float("-inf")
        self._writing = asyncio.Lock()

    async def read(self) -> Object:
        """The status as it is now, this replica's from here on. Raises SourceError when it is not this one's."""
        async with self._writing:
            found = await self._read()
            if self.fenced and _term_of(found) != self._held_term():
                await self._write({})  # leaves the term: from now on an earlier holder cannot write
            assert self._live is not None
            status: Object = self._live.get("status", {})
            return status

    async def change(self, changes: Mapping[str, Any]) -> None:
        """Merges these fields of the status, None removes one; returns once they are durable. Raises SourceError."""
        _merge(self._waiting, changes)
        if self._next is None:
            self._next = asyncio.create_task(self._write_soon())
            # Whoever waited may have been cancelled: then its failure is nobody's concern
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._next)

    async def _write_soon(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._written_at + _BETWEEN_WRITES_SECONDS - loop.time()))
        async with self._writing:
            changes, self._waiting, self._next = self._waiting, {}, None
            self._written_at = loop.time()
            await self._write(changes)

    async def _write(self, changes: Object) -> None:
        while True:
            live = self._live if self._live is not None else await self._read()
            if self.fenced:
                _merge(changes, {"state": {_TERM: str(self._held_term())}})
            patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "status": changes}
            try:
                async with self._turns:
                    self._live = await self._api.request(
                        "PATCH", f"{self._path}/status", body=patch, content_type="application/merge-patch+json"
                    )
            except Refused as refused:
                self._live = None  # somebody wrote meanwhile: looked at anew
                if refused.status == 404:
                    raise _gone() from None
                if refused.status == 409:
                    continue
                if 400 <= refused.status < 500 and refused.status != 429:
                    raise SourceError("StatusRefused", f"the status cannot be written: {refused}") from None
                await self._wait(refused)
            except (OSError, TimeoutError) as error:
                self._live = None
                await self._wait(error)
            else:
                return

    async def _read(self) -> Object:
        while True:
            try:
                async with self._turns:
                    found = await self._api.request("GET", self._path)
            except Refused as refused:
                if refused.status == 404:
                    raise _gone() from None
                await self._wait(refused)
                continue
            except (OSError, TimeoutError) as error:
                await self._wait(error)
                continue
            if found["metadata"]["uid"] != self.uid:
                raise _gone()
            if self.fenced and _term_of(found) > self._held_term():
                raise _lost()
            self._live = found
            return found

    async def _wait(self, problem: Exception) -> None:
        """Before it is tried again."""
        if self.fenced:
            self._held_term()
        log.warning("status not written", extra={"path": self._path, "problem": str(problem) or repr(problem)})
        await asyncio.sleep(_AGAIN_SECONDS)

    def _held_term(self) -> int:
        term = self._term()
        if term is None:
            raise _lost()
        return term


class StatusState:
    """A `source.State` in a trigger's status: that of one function."""

    def __init__(self, status: TriggerStatus, function: str) -> None:
        self._status = status
        self._function = function

    async def get(self, key: str) -> bytes | None:
        text = (await self._status.read()).get("state", {}).get(self._name(key))
        return None if text is None else text.encode()

    async def put(self, key: str, value: bytes) -> None:
        """`value` is text in UTF-8: a status is JSON."""
        await self._status.change({"state": {self._name(key): value.decode()}})

    async def delete(self, key: str) -> None:
        await self._status.change({"state": {self._name(key): None}})

    def _name(self, key: str) -> str:
        return f"{self._function}/{key}"


def _term_of(trigger: Mapping[str, Any]) -> int:
    return int(trigger.get("status", {}).get("state", {}).get(_TERM, "-1"))


def _merge(into: Object, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _lost() -> SourceError:
    return SourceError("LeaseLost", "another replica holds this trigger now")


def _gone() -> SourceError:
    return SourceError("TriggerGone", "the trigger was deleted")
