"""SharedLeases on a real API server, held by processes that are killed, stopped and cut off."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from servers.controllers import cluster, server_for_controllers
from servers.kubernetes import APIServer

DURATION = 3.0
ROOT = Path(__file__).resolve().parents[4]


class Replicas:
    """Processes that share slots. Each one writes the slots that it holds to a file, for the test to read."""

    def __init__(self, server: APIServer, folder: Path, count: int, drain_seconds: float, duration: float) -> None:
        self.server, self.folder, self.count, self.drain_seconds = server, folder, count, drain_seconds
        self.duration = duration
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "servers.slot_holder", name, str(self.count), str(self.duration),
                    str(self.drain_seconds), str(self.folder / f"{name}.jsonl"), stdout=log, stderr=log, cwd=ROOT,
                    env={**os.environ, "KUBECONFIG": str(self.server.kubeconfig), "PYTHONPATH": str(ROOT / "tests")},
                )  # fmt: skip

    def send(self, name: str, number: signal.Signals) -> float:
        """Returns the time just before."""
        moment = time.monotonic()
        self.processes[name].send_signal(number)
        return moment

    def moments(self, name: str) -> list[dict[str, Any]]:
        file = self.folder / f"{name}.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    def told_since(self, name: str, moment: float) -> list[dict[str, Any]]:
        """The reports about its slots after this moment."""
        return [found for found in self.moments(name) if found["at"] > moment and "terms" in found]

    def held(self, name: str) -> set[int]:
        """The slots that it held when it last wrote."""
        last = next((found for found in reversed(self.moments(name)) if "terms" in found), {"terms": {}})
        return set(map(int, last["terms"]))

    async def until(self, holds: Callable[[], Any], seconds: float = 20) -> float:
        """Returns the time."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            logs = "\n".join((self.folder / f"{name}.log").read_text()[-2000:] for name in self.processes)
            raise AssertionError(f"{ {name: self.held(name) for name in self.processes} }\n{logs}") from None
        return time.monotonic()

    def all_held_by(self, *names: str) -> bool:
        """Whether these processes hold all slots, in shares that differ by one at most."""
        held = [self.held(name) for name in names]
        sizes = [len(slots) for slots in held]
        return (
            sorted(slot for slots in held for slot in slots) == list(range(self.count)) and max(sizes) - min(sizes) <= 1
        )

    def assert_never_two_at_a_time(self) -> None:
        """Each slot has one holder at a time. A holder has it from the first moment of its term to the last."""
        holdings: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for name in self.processes:
            for found in self.moments(name):
                for slot, term in found.get("terms", {}).items():
                    holdings[int(slot), term][name].append(found["at"])
        before: dict[int, tuple[int, float]] = {}
        for (slot, term), by_name in sorted(holdings.items()):
            assert len(by_name) == 1, f"slot {slot}, term {term}: {list(by_name)}"
            (moments,) = by_name.values()
            if slot in before:
                assert before[slot][1] < min(moments), f"slot {slot}: terms {before[slot][0]} and {term} overlap"
            before[slot] = term, max(moments)

    async def stop(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def replicas(
    server: APIServer, folder: Path, count: int, drain_seconds: float = 0, duration: float = DURATION
) -> AsyncIterator[Replicas]:
    async with cluster(server, folder):
        found = Replicas(server, folder, count, drain_seconds, duration)
        try:
            yield found
        finally:
            await found.stop()


@pytest.mark.timeout(120)
async def test_slots_of_a_killed_replica_are_taken_after_the_lease_duration_and_never_held_twice(
    kubernetes: APIServer,
    tmp_path: Path,
) -> None:
    async with replicas(kubernetes, tmp_path, 6) as it:
        await it.start("one", "two", "three")
        await it.until(lambda: it.all_held_by("one", "two", "three"))
        killed = it.send("one", signal.SIGKILL)
        taken = await it.until(lambda: it.all_held_by("two", "three"))
        assert taken - killed < DURATION + 1.5
        await it.start("four")
        await it.until(lambda: it.all_held_by("two", "three", "four"))
        it.assert_never_two_at_a_time()


@pytest.mark.timeout(120)
async def test_a_process_that_was_paused_longer_than_the_lease_holds_no_slot_when_it_continues(
    kubernetes: APIServer,
    tmp_path: Path,
) -> None:
    async with replicas(kubernetes, tmp_path, 2) as it:
        await it.start("one", "two")
        await it.until(lambda: it.all_held_by("one", "two"))
        for _ in range(3):
            it.send("one", signal.SIGSTOP)
            await it.until(lambda: it.held("two") == {0, 1})
            continued = it.send("one", signal.SIGCONT)
            await it.until(lambda since=continued: it.told_since("one", since))  # type: ignore[misc]
            assert it.told_since("one", continued)[0]["terms"] == {}
            await it.until(lambda: it.all_held_by("one", "two"))
        it.assert_never_two_at_a_time()


@pytest.mark.timeout(120)
async def test_a_replica_that_stops_in_order_hands_over_as_soon_as_its_work_has_ended(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with replicas(kubernetes, tmp_path, 6, drain_seconds=DURATION * 1.5) as it:
        await it.start("one", "two")
        await it.until(lambda: it.all_held_by("one", "two"))
        had = it.held("one")
        told = it.send("one", signal.SIGTERM)
        assert await it.processes["one"].wait() == 0, (tmp_path / "one.log").read_text()
        ended = max(found["at"] for found in it.moments("one") if found.get("let_go") in had)
        taken = await it.until(lambda: it.held("two") == set(range(6)))
        assert taken - ended < DURATION, "a slot that is given back is not waited for"
        first = {}
        for found in it.moments("two"):
            if found["at"] >= told:  # one that began first had all of them before
                for slot in map(int, found.get("terms", {})):
                    first.setdefault(slot, found["at"])
        let_go = {found["let_go"]: found["at"] for found in it.moments("one") if "let_go" in found}
        assert all(let_go[slot] < first[slot] for slot in had), "a drain that takes longer than the Lease keeps it"
        it.assert_never_two_at_a_time()


@pytest.mark.timeout(120)
async def test_a_replica_that_cannot_renew_holds_no_slot_until_the_server_answers_again(
    tmp_path: Path,
) -> None:
    async with server_for_controllers() as own, replicas(own, tmp_path, 4) as it:
        await it.start("one", "two")
        await it.until(lambda: it.all_held_by("one", "two"))
        it.server.processes["kube-apiserver"].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        lost = await it.until(lambda: not it.held("one") and not it.held("two"))
        assert lost - stopped < DURATION
        it.server.processes["kube-apiserver"].send_signal(signal.SIGCONT)
        await it.until(lambda: it.all_held_by("one", "two"))
        it.assert_never_two_at_a_time()


@pytest.mark.timeout(120)
async def test_at_rest_only_renewals_are_written(kubernetes: APIServer, tmp_path: Path) -> None:
    async with replicas(kubernetes, tmp_path, 4) as it:
        await it.start("one", "two")
        await it.until(lambda: it.all_held_by("one", "two"))
        await asyncio.sleep(1)  # requests that were refused, if any, are forgotten
        before = len(it.server.writes(resource="leases"))
        started = time.monotonic()
        await asyncio.sleep(6)
        writes = [e for e in it.server.writes(resource="leases")[before:] if e["objectRef"]["namespace"] == "default"]
        assert {event["verb"] for event in writes} == {"update"}
        assert {event["responseStatus"]["code"] for event in writes} == {200}
        assert len(writes) <= it.count * ((time.monotonic() - started) / (DURATION / 3) + 1)
