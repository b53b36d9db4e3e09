"""The output of functions is kept in files of limited size, and can be read while they grow."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

from kubeirq.on_machine.log_files import FunctionLogs, function_log, read_lines


async def test_the_last_lines_are_read_and_then_new_lines_across_a_rotation(tmp_path: Path) -> None:
    logs = FunctionLogs(tmp_path, max_bytes=40)
    file = function_log(tmp_path, "shop", "pay")
    for number in range(3):
        logs.write("shop", "pay", f"line {number}")
    assert [line async for line in read_lines(file, 2, False)] == ["line 1", "line 2"]
    async with aclosing(read_lines(file, 1, True)) as followed:
        found = [await anext(followed)]
        for number in range(3, 12):
            logs.write("shop", "pay", f"line {number}")
            async with asyncio.timeout(10):
                found.append(await anext(followed))
    logs.close()
    assert found == [f"line {number}" for number in range(2, 12)]
    assert file.stat().st_size <= 60 and file.with_suffix(".log.1").stat().st_size <= 60


async def test_lines_about_one_trigger_are_read_from_the_fabrics_log_in_readable_form(tmp_path: Path) -> None:
    lines = [
        {"time": "2026-01-01T10:00:00+00:00", "level": "warning", "logger": "x", "message": "source not connected",
         "trigger": "shop/orders", "reason": "Refused", "problem": ""},
        {"time": "2026-01-01T10:00:00+00:00", "level": "info", "message": "another", "trigger": "shop/other"},
    ]  # fmt: skip
    file = tmp_path / "kubeirq.log"
    file.write_text("\n".join(["no JSON", *(json.dumps(line) for line in lines), "7", ""]))
    (shown,) = [line async for line in read_lines(file, 10, False, "shop/orders")]
    assert shown[20:] == "warning source not connected  trigger=shop/orders  reason=Refused"


async def test_a_missing_log_file_has_no_lines(tmp_path: Path) -> None:
    assert [line async for line in read_lines(tmp_path / "none.log", 10, False)] == []
