"""Replicas ask each other over TLS what they serve, and hear of changes at once. The API server is one in memory."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from servers.certificates import Authority
from servers.scripted import Answer, Call, scripted

from controllers.cluster.api import Api
from controllers.triggers import peers as peers_module
from controllers.triggers.admin_port import AdminPort
from controllers.triggers.peers import Peers
from controllers.triggers.served import Served, ServedTriggers
from controllers.triggers.shared_certificate import SharedCertificate

Object = dict[str, Any]

ONE, TWO = Served(1, "True", "Ready", ""), Served(2, "True", "Ready", "")


@dataclass
class Slices:
    """The EndpointSlices of one Service, and their watch."""

    kept: dict[str, Object] = field(default_factory=dict)
    changed: asyncio.Queue[tuple[str, Object]] = field(default_factory=asyncio.Queue)

    def put(self, name: str, port: int | None, *, ready: bool = True, terminating: bool = False) -> None:
        conditions = {"ready": ready, "terminating": terminating}
        endpoint = {"addresses": ["127.0.0.1"], "targetRef": {"name": name}, "conditions": conditions}
        ports = None if port is None else [{"name": "admin", "port": port}]
        self.kept[name] = {"metadata": {"name": name}, "endpoints": [endpoint], "ports": ports}
        self.changed.put_nowait(("MODIFIED", self.kept[name]))

    async def snapshot(self, *_: Any) -> tuple[list[Object], str]:
        return list(self.kept.values()), "1"

    async def changes(self, *_: Any) -> AsyncGenerator[tuple[str, Object], None]:
        while True:
            yield await self.changed.get()


async def certificate(folder: Path, name: str = "tls") -> SharedCertificate:
    folder.mkdir(exist_ok=True)
    authority = Authority(folder)
    await authority.create()
    await authority.issue("tls", f"/CN={name}")
    return SharedCertificate(folder)


@asynccontextmanager
async def replica(shared: SharedCertificate, name: str, folder: Path) -> AsyncIterator[tuple[ServedTriggers, int]]:
    triggers = ServedTriggers(name)

    async def addresses() -> list[str]:
        return []

    port = AdminPort(
        None, "HTTPTrigger", replica=name, triggers=triggers, admin_socket=folder / "none", certificate=shared,
        port=0, addresses=addresses,
    )  # fmt: skip
    async with port.served("127.0.0.1") as number:
        yield triggers, number


@dataclass
class Asking:
    peers: Peers
    heard: list[Collection[str] | None] = field(default_factory=list)

    def serves(self, name: str) -> dict[str, Served]:
        found = self.peers.found
        assert not isinstance(found, str), found
        return next((peer.served for peer in found if peer.name == name), {})

    def silence(self, name: str) -> str:
        found = self.peers.found
        return "" if isinstance(found, str) else next((peer.silence for peer in found if peer.name == name), "")

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def asking(slices: Slices, shared: SharedCertificate) -> AsyncIterator[Asking]:
    peers = Peers(cast(Api, slices), shared, namespace="n", service="s", replica="own")
    found = Asking(peers)
    peers.on_change = found.heard.append
    running = asyncio.create_task(peers.run())
    try:
        await found.until(lambda: not isinstance(peers.found, str))
        yield found
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_replica_hears_at_once_of_what_another_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.triggers.admin_port.ANSWER_SECONDS", 600.0)  # only a change ends a wait
    monkeypatch.setattr(peers_module, "ANSWER_SECONDS", 600.0)
    shared, slices = await certificate(tmp_path / "shared"), Slices()
    async with replica(shared, "b", tmp_path) as (triggers, port):
        triggers.tell("u", ONE)
        slices.put("b", port)
        slices.put("own", 1)
        async with asking(slices, shared) as found:
            await found.until(lambda: found.serves("b") == {"u": ONE})
            triggers.tell("u", TWO)
            triggers.tell("v", ONE)
            await found.until(lambda: found.serves("b") == {"u": TWO, "v": ONE})
            assert found.heard[-1] in ({"u", "v"}, {"v"})
            triggers.tell("u", None)
            await found.until(lambda: found.serves("b") == {"v": ONE})
            assert [peer.name for peer in found.peers.found if not isinstance(peer, str)] == ["b"], "not itself"


async def test_a_replica_that_ends_is_asked_no_more_and_one_that_restarts_tells_everything(tmp_path: Path) -> None:
    shared, slices = await certificate(tmp_path / "shared"), Slices()
    async with replica(shared, "b", tmp_path) as (triggers, port):
        triggers.tell("u", ONE)
        triggers.tell("gone", ONE)
        slices.put("b", port)
        async with asking(slices, shared) as found:
            await found.until(lambda: len(found.serves("b")) == 2)
            async with replica(shared, "b", tmp_path) as (anew, another):
                anew.tell("u", TWO)
                slices.put("b", another)
                await found.until(lambda: found.serves("b") == {"u": TWO})
                slices.put("b", another, ready=False, terminating=True)
                await found.until(lambda: found.peers.found == [])


async def test_a_silent_replica_is_named_with_the_time_and_the_reason(tmp_path: Path) -> None:
    shared, slices = await certificate(tmp_path / "shared"), Slices()
    slices.put("closed", 1)
    slices.put("former", None)
    other = await certificate(tmp_path / "other", "another release")
    async with (
        replica(other, "stranger", tmp_path) as (_, port),
        asking(slices, shared) as found,
    ):
        slices.put("stranger", port)
        await found.until(lambda: all(found.silence(name) for name in ("closed", "former", "stranger")))
        assert "at 127.0.0.1:1 has not said since 20" in found.silence("closed")
        assert found.silence("former") == peers_module._FORMER
        assert "certificate verify failed" in found.silence("stranger")
        assert found.heard[-1] is None


async def test_a_version_that_does_not_know_the_question_is_a_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.triggers.admin_port.PATH", "/v1/replica")
    shared, slices = await certificate(tmp_path / "shared"), Slices()
    async with replica(shared, "b", tmp_path) as (_, port):
        slices.put("b", port)
        async with asking(slices, shared) as found:
            await found.until(lambda: found.silence("b") == peers_module._FORMER)


async def test_replicas_understand_each_other_again_once_all_have_read_the_new_certificate(tmp_path: Path) -> None:
    """Where no cluster is looked at, each rendering of the chart makes another certificate."""
    shared, slices = await certificate(tmp_path / "shared"), Slices()
    newer = await certificate(tmp_path / "newer")
    async with replica(shared, "b", tmp_path) as (triggers, port):
        triggers.tell("u", ONE)
        slices.put("b", port)
        async with asking(slices, newer) as found:
            await found.until(lambda: found.silence("b"))
            for name in ("tls.crt", "tls.key"):
                shutil.copy(tmp_path / "newer" / name, tmp_path / "shared" / name)
            shared.refresh()
            await found.until(lambda: found.serves("b") == {"u": ONE} and not found.silence("b"))


async def test_another_certificate_of_the_same_authority_is_not_a_replica_s(tmp_path: Path) -> None:
    """A file of cert-manager has the certificates of the authorities behind the first one."""
    shared, slices = await certificate(tmp_path / "shared"), Slices()
    authority = Authority(tmp_path / "shared")
    await authority.issue("other", "/CN=other")
    (tmp_path / "other").mkdir()
    for ending in ("crt", "key"):
        shutil.copy(tmp_path / "shared" / f"other.{ending}", tmp_path / "other" / f"tls.{ending}")
    with (tmp_path / "shared" / "tls.crt").open("ab") as chain:
        chain.write(authority.certificate.read_bytes())
    shared.refresh()
    async with (
        replica(shared, "b", tmp_path) as (triggers, port),
        replica(SharedCertificate(tmp_path / "other"), "c", tmp_path) as (_, other_port),
        asking(slices, shared) as found,
    ):
        triggers.tell("u", ONE)
        slices.put("b", port)
        slices.put("c", other_port)
        await found.until(lambda: found.serves("b") == {"u": ONE} and "CERTIFICATE_VERIFY_FAILED" in found.silence("c"))


async def test_a_header_that_is_no_text_is_no_token(tmp_path: Path) -> None:
    shared = await certificate(tmp_path / "shared")
    assert shared.is_token(shared.token)
    assert not shared.is_token("\udcff")


async def test_a_certificate_that_cannot_be_read_is_the_reason_for_silence(tmp_path: Path) -> None:
    slices = Slices()
    slices.put("b", 1)
    async with asking(slices, SharedCertificate(tmp_path / "missing")) as found:
        await found.until(lambda: "cannot be used" in found.silence("b"))


async def test_a_replica_that_answers_something_else_is_silent(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return 200

    shared, slices = await certificate(tmp_path / "shared"), Slices()
    async with scripted(decide) as server:
        slices.put("b", int(server.url.rstrip("/").rpartition(":")[2]))
        async with asking(slices, shared) as found:
            await found.until(lambda: found.silence("b"))
