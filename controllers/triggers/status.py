"""Writes one trigger's status subresource: its conditions, and the durable state of its source."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from controllers.cluster.api import Api, Object, Refused, path_of, without_managers
from controllers.cluster.informer_cache import Version
from trigger_sources.dispatch.former_target import TARGET_KEY, Decision, Former, is_to_be_noted
from trigger_sources.source import SourceError

log = logging.getLogger(__name__)

_WRITE_INTERVAL_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_TERM = "term"  # a key of the state: the Lease's term under which a replica wrote it
_TERM_DIGITS = 20  # no Lease changes its holder so often


class TriggerStatus:
    """Combines changes into one write per second, and retries while the API server is down.

    `term` returns the Lease's term while this replica holds the trigger, otherwise None. The term is a fencing token:
    an earlier holder cannot write after a later one, because the status has the later term. Without `fenced`, every
    replica may write. The triggers of a process share `request_limit`, which bounds their concurrent requests.
    """

    def __init__(
        self,
        api: Api,
        trigger: Mapping[str, Any],
        *,
        term: Callable[[], int | None],
        fenced: bool,
        request_limit: asyncio.Semaphore | None = None,
    ) -> None:
        metadata = trigger["metadata"]
        self.uid: str = metadata["uid"]
        self._api = api
        self._path = path_of(trigger["apiVersion"], trigger["kind"], metadata["namespace"], metadata["name"])
        self._term = term
        self._request_limit = request_limit or asyncio.Semaphore(1)
        self.fenced = fenced
        self._live: Object | None = None  # as last read, written or observed
        self._pending: Object = {}  # the changes for the next write
        self._next_write: asyncio.Task[None] | None = None
        self._written_at = float("-inf")
        self._writing = asyncio.Lock()

    @property
    def last_known(self) -> Object | None:
        """As last read, written or observed, if nothing failed since."""
        return None if self._live is None else self._live.get("status", {})

    def observe(self, trigger: Object) -> None:
        """Takes the trigger as a watch or a list brought it, so that the next write needs no read before it."""
        if self._live is None or not Version.of(trigger).is_older_than(Version.of(self._live)):
            self._live = trigger

    async def read(self) -> Object:
        """Reads the status, and locks out earlier holders. Raises SourceError if another replica holds the trigger."""
        async with self._writing:
            found = await self._read()
            if self.fenced and _term_of(found) != self._held_term():
                await self._write(lambda _: {})  # writes the term, so that an earlier holder cannot write any more
            assert self._live is not None
            status: Object = self._live.get("status", {})
            return status

    async def change(self, changes: Mapping[str, Any]) -> None:
        """Merges these fields into the status; None removes a field. Returns after the write. Raises SourceError."""
        _merge(self._pending, changes)
        if self._next_write is None:
            self._next_write = asyncio.create_task(self._write_soon())
            # if every caller is cancelled, nobody else retrieves the task's exception
            self._next_write.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._next_write)

    async def _write_soon(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._written_at + _WRITE_INTERVAL_SECONDS - loop.time()))
        async with self._writing:
            changes, self._pending, self._next_write = self._pending, {}, None
            self._written_at = loop.time()
            await self._write(lambda _: changes)

    async def rewrite(self, changes_of: Callable[[Mapping[str, Any]], Object]) -> None:
        """Merges the changes that depend on the status as it is, all in one write. Raises SourceError."""
        async with self._writing:
            self._live = None
            await self._write(changes_of)

    async def _write(self, changes_of: Callable[[Mapping[str, Any]], Object]) -> None:
        while True:
            known = self._live
            live = known if known is not None else await self._read()
            changes = changes_of(live.get("status", {}))
            if self.fenced:
                if _term_of(live) > (term := self._held_term()):
                    raise _lease_lost()
                _merge(changes, {"state": {_TERM: str(term)}})
            if _has(live.get("status", {}), changes):
                if known is None:
                    return
                self._live = None  # another writer may have changed it since
                continue
            patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "status": changes}
            try:
                async with self._request_limit:
                    found = await self._api.request(
                        "PATCH", f"{self._path}/status", body=patch, content_type="application/merge-patch+json"
                    )
                self._live = without_managers(found)
            except Refused as refused:
                self._live = None  # read it again, since another writer may have been first
                if refused.status == 404:
                    raise _trigger_gone() from None
                if refused.status == 409:
                    continue
                if 400 <= refused.status < 500 and refused.status != 429:
                    raise SourceError("StatusRefused", f"the status cannot be written: {refused}") from None
                await self._wait_to_retry(refused)
            except (OSError, TimeoutError) as error:
                self._live = None
                await self._wait_to_retry(error)
            else:
                return

    async def _read(self) -> Object:
        while True:
            try:
                async with self._request_limit:
                    found = await self._api.request("GET", self._path)
            except Refused as refused:
                if refused.status == 404:
                    raise _trigger_gone() from None
                await self._wait_to_retry(refused)
                continue
            except (OSError, TimeoutError) as error:
                await self._wait_to_retry(error)
                continue
            if found["metadata"]["uid"] != self.uid:
                raise _trigger_gone()
            if self.fenced and _term_of(found) > self._held_term():
                raise _lease_lost()
            self._live = without_managers(found)
            return found

    async def _wait_to_retry(self, problem: Exception) -> None:
        """Waits before a retry."""
        if self.fenced:
            self._held_term()
        log.warning("status request failed", extra={"path": self._path, "problem": str(problem) or repr(problem)})
        await asyncio.sleep(_RETRY_SECONDS)

    def _held_term(self) -> int:
        term = self._term()
        if term is None:
            raise _lease_lost()
        return term


class StatusState:
    """A `source.State` that is kept in a trigger's status, for one function."""

    def __init__(self, status: TriggerStatus, function: str) -> None:
        self._status = status
        self._function = function

    async def get(self, key: str) -> bytes | None:
        text = (await self._status.read()).get("state", {}).get(self._name(key))
        return None if text is None else text.encode()

    async def put(self, key: str, value: bytes) -> None:
        """`value` must be UTF-8 text, because the status is JSON."""
        await self._status.change({"state": {self._name(key): value.decode()}})

    async def delete(self, key: str) -> None:
        await self._status.change({"state": {self._name(key): None}})

    def _name(self, key: str) -> str:
        return f"{self._function}/{key}"


async def hand_over(status: TriggerStatus, function: str, decide: Decision) -> Former:
    """`host.FabricStore.hand_over` in a trigger's status."""
    former = Former()

    def changes_of(found: Mapping[str, Any]) -> Object:
        nonlocal former
        state: Mapping[str, str] = found.get("state", {})
        with_state = {name.partition("/")[0] for name in state if "/" in name} - {""}
        noted = state.get(f"/{TARGET_KEY}")
        former = decide(noted, with_state)
        changes: Object = {}
        if former.function is not None:
            changes.update({name: None for name in state if name.startswith(f"{function}/")})
            theirs = [name for name in state if name.startswith(f"{former.function}/")]
            changes.update({f"{function}/{name.partition('/')[2]}": state[name] for name in theirs})
            changes.update(dict.fromkeys(theirs))
        if is_to_be_noted(function, noted, with_state):
            changes[f"/{TARGET_KEY}"] = function
        return {"state": changes} if changes else {}

    await status.rewrite(changes_of)
    return former


def _term_of(trigger: Mapping[str, Any]) -> int:
    """The term of the last writer. -1: there is none, or it is no number any more; the holder writes its own."""
    text = str(trigger.get("status", {}).get("state", {}).get(_TERM, ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < _TERM_DIGITS else -1


def _merge(into: Object, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _has(status: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether the merge of `changes` leaves `status` as it is."""
    for name, value in changes.items():
        if isinstance(value, Mapping):
            found = status.get(name)
            if not isinstance(found, Mapping) or not _has(found, value):
                return False
        elif status.get(name) != value:
            return False
    return True


def _lease_lost() -> SourceError:
    return SourceError("LeaseLost", "another replica holds this trigger now")


def _trigger_gone() -> SourceError:
    return SourceError("TriggerGone", "the trigger was deleted")
