"""The output of functions is kept in files of limited size, and can be read while they grow."""

import asyncio
import json
import re
import time
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from kubeirq.on_machine.log_files import FunctionLogs, function_log, read_records
from kubeirq.output.fabric_log_lines import line_of


async def test_the_last_lines_are_read_and_then_new_lines_across_a_rotation(tmp_path: Path) -> None:
    logs = FunctionLogs(tmp_path, max_bytes=140)
    file = function_log(tmp_path, "shop", "pay")
    for number in range(3):
        logs.write("shop", "pay", f"line {number}")
    assert [record["line"] async for record in read_records(file, 2, False)] == ["line 1", "line 2"]
    async with aclosing(read_records(file, 1, True)) as followed:
        found = [await anext(followed)]
        for number in range(3, 12):
            logs.write("shop", "pay", f"line {number}")
            async with asyncio.timeout(10):
                found.append(await anext(followed))
    logs.close()
    assert [record["line"] for record in found] == [f"line {number}" for number in range(2, 12)]
    assert file.stat().st_size <= 180 and file.with_suffix(".log.1").stat().st_size <= 180


async def test_a_line_of_a_function_has_its_time_and_one_of_a_former_version_has_none(tmp_path: Path) -> None:
    file = function_log(tmp_path, "shop", "pay")
    file.parent.mkdir(parents=True)
    file.write_text("printed before\n")
    logs = FunctionLogs(tmp_path)
    logs.write("shop", "pay", "paid 4 euros")
    logs.close()
    former, new = [record async for record in read_records(file, 10, False)]
    assert line_of(former) == "printed before"
    assert abs(datetime.fromisoformat(new["time"]).timestamp() - time.time()) < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d paid 4 euros", line_of(new))


async def test_lines_about_one_trigger_are_read_from_the_fabrics_log_in_readable_form(tmp_path: Path) -> None:
    lines = [
        {"time": "2026-01-01T10:00:00+00:00", "level": "warning", "logger": "x", "message": "source not connected",
         "trigger": "shop/orders", "reason": "Refused", "problem": ""},
        {"time": "2026-01-01T10:00:00+00:00", "level": "info", "message": "another", "trigger": "shop/other"},
    ]  # fmt: skip
    file = tmp_path / "kubeirq.log"
    file.write_text("\n".join(["no JSON", *(json.dumps(line) for line in lines), "7", ""]))
    (shown,) = [record async for record in read_records(file, 10, False, "shop/orders")]
    assert line_of(shown)[20:] == "warning source not connected  trigger=shop/orders  reason=Refused"


async def test_a_missing_log_file_has_no_lines(tmp_path: Path) -> None:
    assert [line async for line in read_records(tmp_path / "none.log", 10, False)] == []
