"""The SQLite store: it keeps records separate by trigger, and names the problem with an unusable file."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from servers.letters import letter

from trigger_sources.dead_letters import DeadLettersOfFunctions
from trigger_sources.delivery import Outcome
from trigger_sources.dispatch.former_target import former_of
from trigger_sources.inbox import Inbox, Kept
from trigger_sources.stores.sqlite import Store, StoreError


async def held(inbox: Inbox, limit: int = 1_000_000) -> list[Kept]:
    """The records that can be taken now."""
    return await inbox.take(limit, 0)


async def records(inbox: Inbox) -> list[bytes]:
    return [kept.record for kept in await held(inbox)]


async def test_values_are_separate_for_each_trigger_and_function(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "deep" / "store.db") as store:
        await store.state("a", "f").put("cursor", b"1")
        await store.state("a", "g").put("cursor", b"2")
        await store.state("b", "f").put("cursor", b"3")
        await store.state("a", "f").put("cursor", b"4")
        assert await store.state("a", "f").get("cursor") == b"4"
        assert await store.state("a", "g").get("cursor") == b"2"
        await store.state("a", "f").delete("cursor")
        await store.state("a", "f").delete("never there")
        assert await store.state("a", "f").get("cursor") is None
        assert await store.state("b", "f").get("cursor") == b"3"


async def test_everything_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        await store.state("a", "f").put("k", b"v")
        await store.dead_letters("uid-1", "pay").write(letter("p/0/1"))
        await store.inbox("a").append_all([b"record"])
    async with Store.open(path) as store:
        assert await store.state("a", "f").get("k") == b"v"
        assert [found async for found in store.dead_letters("uid-1", "pay").letters()] == [letter("p/0/1")]
        assert await records(store.inbox("a")) == [b"record"]


async def test_dead_letters_are_complete_oldest_first_and_unique_by_identity(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store:
        letters = store.dead_letters("uid-1", "pay")
        await letters.prepare()
        many = [letter(f"p/0/{number}", failed_at=1000.0 - number // 2) for number in range(150)]
        await asyncio.gather(*(letters.write(one) for one in many))
        await letters.write(letter("p/0/0", failed_at=2000.0, data=None))
        await store.dead_letters("uid-1", "ship").write(letter("p/0/0", function="ship"))
        await store.dead_letters("uid-2", "pay").write(letter("p/0/0"))
        found = [one async for one in letters.letters()]
        assert len(found) == 150
        assert [one.failed_at for one in found] == sorted(one.failed_at for one in found)
        assert found[-1] == letter("p/0/0", failed_at=2000.0, data=None)
        assert isinstance(letters, DeadLettersOfFunctions)
        assert set(await letters.functions()) == {"pay", "ship"}
        others = letters.of("ship", lambda found: None)
        assert [one.function async for one in others.letters()] == ["ship"]
        await letters.remove(found[-1])
        await letters.remove(found[-1])
        assert len([one async for one in letters.letters()]) == 149


async def test_an_inbox_never_repeats_a_position_and_belongs_to_one_trigger(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        inbox = store.inbox("a")
        await inbox.append_all([b"one"])
        await inbox.append_all([b"two", b"three"])
        await store.inbox("b").append_all([b"another trigger's"])
        assert await inbox.count() == 3
        taken = [*await held(inbox), *await held(store.inbox("b"))]
        assert [kept.record for kept in taken] == [b"one", b"two", b"three", b"another trigger's"]
        for kept in taken:
            await kept.settle(Outcome("delivered"))
        assert await inbox.count() == 0
    async with Store.open(path) as store:
        await store.inbox("a").append_all([b"four"])
        (kept,) = await held(store.inbox("a"))
        assert kept.position not in {earlier.position for earlier in taken}


async def test_a_record_that_cannot_be_removed_is_handed_out_again_to_be_settled_once_more(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store:
        inbox = store.inbox("a")
        await inbox.append_all([b"one"])
        (kept,) = await held(inbox)
        await store.run(lambda connection: connection.execute("ALTER TABLE inbox RENAME TO away").rowcount)
        with pytest.raises(StoreError):
            await kept.settle(Outcome("delivered"))
        await store.run(lambda connection: connection.execute("ALTER TABLE away RENAME TO inbox").rowcount)
        (again,) = await inbox.take(10, 10)
        assert (again.position, again.handed_out) == (kept.position, 2)


async def test_a_take_that_is_cancelled_leaves_the_records_to_the_next(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store:
        inbox = store.inbox("a")
        await inbox.append_all([b"%d" % number for number in range(20)])
        for turns in range(20):
            taking = asyncio.create_task(inbox.take(1, 5))
            for _ in range(turns % 4):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        await inbox.give_back()
        assert await records(inbox) == [b"%d" % number for number in range(20)]


async def test_concurrent_writes_share_transactions(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        transactions = 0

        def count(statement: str) -> None:
            nonlocal transactions
            transactions += statement == "COMMIT"

        await store.run(lambda connection: connection.set_trace_callback(count))
        await asyncio.gather(*(store.inbox("a").append_all([b"%d" % number]) for number in range(500)))
        assert transactions < 50
        assert await store.inbox("a").count() == 500


async def test_a_failed_write_does_not_affect_the_others(tmp_path: Path) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO inbox (uid, record) VALUES ('a', NULL)")

    async with Store.open(tmp_path / "store.db") as store:
        done = await asyncio.gather(
            store.inbox("a").append_all([b"before"]),
            store.run(fails),
            store.inbox("a").append_all([b"after"]),
            return_exceptions=True,
        )
        assert isinstance(done[1], StoreError)
        assert await records(store.inbox("a")) == [b"before", b"after"]


async def test_a_cancelled_writer_leaves_the_store_in_order(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store:
        tasks = [asyncio.create_task(store.inbox("a").append_all([b"x"])) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.inbox("a").append_all([b"last"])
        assert (await records(store.inbox("a")))[-1] == b"last"


async def test_closing_waits_for_writes_in_progress(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        tasks = [asyncio.create_task(store.inbox("a").append_all([b"x"])) for _ in range(50)]
        await asyncio.sleep(0)
    assert all(task.done() and task.exception() is None for task in tasks)
    with pytest.raises(StoreError, match="closed"):
        await store.inbox("a").count()
    async with Store.open(path) as store:
        assert await store.inbox("a").count() == 50


async def test_a_file_that_another_process_has_open_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = f"""
    import asyncio, sys
    from trigger_sources.stores.sqlite import Store
    async def main():
        async with Store.open({str(path)!r}) as store:
            await store.inbox("a").append_all([b"theirs"])
            print("open", flush=True)
            sys.stdin.read()
    asyncio.run(main())
    """
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdin is not None
        assert other.stdout is not None
        assert await other.stdout.readline() == b"open\n"
        with pytest.raises(StoreError, match=r"store\.db.*another process") as refused:
            async with Store.open(path):
                pass
        assert refused.value.reason == "StoreLocked"
        other.stdin.close()
        assert await asyncio.wait_for(other.wait(), 10) == 0
    finally:
        if other.returncode is None:
            other.kill()
            await other.wait()
    async with Store.open(path) as store:
        assert await records(store.inbox("a")) == [b"theirs"]


async def test_a_file_that_is_not_a_store_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is a text, and a long one at that. " * 200)
    with pytest.raises(StoreError, match=r"store\.db: file is not a database") as refused:
        async with Store.open(path):
            pass
    assert refused.value.reason == "StoreCorrupt"


async def test_an_empty_file_begins_anew_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "store.db").touch()
    async with Store.open(tmp_path / "store.db"), Store.open(tmp_path / "new.db"):
        pass
    assert [record.path for record in caplog.records] == [str(tmp_path / "store.db")]  # type: ignore[attr-defined]


async def test_a_damaged_note_of_the_target_stops_no_trigger(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store:
        await store.state("uid", "a").put("k", b"v")
        await store.state("uid", "").put("target", b"\xff\x00")
        await store.hand_over("uid", "b", partial(former_of, "b", ()))
        assert await store.state("uid", "b").get("k") == b"v"


async def test_a_store_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"store\.db.*format 99"):
        async with Store.open(path):
            pass


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        async with Store.open(tmp_path / "file" / "store.db"):
            pass


async def test_a_damaged_page_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        await store.inbox("a").append_all([b"x" * 1000] * 200)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.db") as refused:
        async with Store.open(path) as store:
            await store.inbox("a").take(1000, 0)
    assert refused.value.reason == "StoreCorrupt"


def test_on_a_full_disk_writes_are_refused_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = f"""
    import asyncio, resource
    from trigger_sources.stores.sqlite import Store, StoreError
    async def main():
        async with Store.open({str(path)!r}) as store:
            await store.inbox("a").append_all([b"kept"])
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            try:
                await store.inbox("a").append_all([b"x" * 2_000_000])
            except StoreError as error:
                print(error.reason, error)
            assert [kept.record for kept in await store.inbox("a").take(10, 0)] == [b"kept"]
            await store.inbox("a").append_all([b"small"])
    asyncio.run(main())
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(("StoreFull", "StoreUnavailable"))
    assert str(path) in found.stdout


def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = f"""
    import asyncio
    from trigger_sources.stores.sqlite import Store
    async def main():
        async with Store.open({str(path)!r}) as store:
            async def work(worker):
                number = 0
                while True:
                    number += 1
                    await store.inbox("a").append_all([b"%d/%d" % (worker, number)])
                    await store.state("a", "f").put(f"last/{{worker}}", b"%d" % number)
                    print(worker, number, flush=True)
            await asyncio.gather(*(work(worker) for worker in range(8)))
    asyncio.run(main())
    """
    acknowledged: list[bytes] = []
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout):
                if not line.endswith("\n"):
                    break  # the process was killed in the middle of a line
                worker, number = line.split()
                acknowledged.append(f"{worker}/{number}".encode())
                if count == 200:
                    process.kill()
        assert process.returncode == -9

    async def look() -> list[bytes]:
        async with Store.open(path) as store:
            return await records(store.inbox("a"))

    found = asyncio.run(look())
    assert len(acknowledged) > 800
    assert not Counter(acknowledged) - Counter(found)


async def test_crashes_of_the_process_are_counted_for_the_records_that_it_may_have_called(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        await store.inbox("a").append_all([b"kills", b"waits"])
        await held(store.inbox("a"))
    program = textwrap.dedent("""
        import asyncio, os, sys
        from trigger_sources.stores.sqlite import Store

        async def main():
            async with Store.open(sys.argv[1]) as store:
                await store.inbox("a").take(2, 0)
                os._exit(9)

        asyncio.run(main())
    """)
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(path))
        assert await process.wait() == 9
    for round_ in range(2):  # an orderly stop is no crash
        async with Store.open(path) as store:
            found = await held(store.inbox("a"))
            assert [(kept.record, kept.handed_out) for kept in found] == [(b"kills", 4), (b"waits", 4)], round_
    async with Store.open(path) as store:
        for kept in await held(store.inbox("a")):
            await kept.settle(Outcome("delivered"))
        await store.inbox("a").append_all([b"new"])
        assert [kept.handed_out for kept in await held(store.inbox("a"))] == [1]


async def test_a_store_of_version_0_1_0_is_opened_and_stays_one_that_that_version_can_open(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Store.open(path) as store:
        await store.inbox("a").append_all([b"kept"])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE running; DROP TABLE inbox_crashes;")
    async with Store.open(path) as store:
        assert await records(store.inbox("a")) == [b"kept"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
