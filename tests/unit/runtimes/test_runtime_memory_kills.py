"""The supervisor knows from the counter of its control group that the kernel killed a worker."""

from pathlib import Path

import pytest

from runtimes.python.kubeirq_runtime.memory_kills import MemoryKills


def group(tmp_path: Path, version: int, path: str = "/") -> tuple[MemoryKills, Path]:
    """The reader, and the file with the counter, which says 2."""
    proc, mounted = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    lines = f"0::{path}\n" if version == 2 else f"5:cpu:/\n4:memory:{path}\n0::/\n"
    (proc / "cgroup").write_text(lines)
    own = mounted if version == 2 else mounted / "memory"
    own.mkdir(parents=True)
    counter = own / ("memory.events" if version == 2 else "memory.oom_control")
    counter.write_text("oom 9\noom_kill 2\noom_group_kill 0\n")
    (own / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(f"{96 << 20}\n")
    return MemoryKills(str(proc), str(mounted)), counter


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("path", ["/", "/kubepods/pod7/container"])
def test_a_counter_that_grows_names_the_limit_and_is_told_once(tmp_path: Path, version: int, path: str) -> None:
    kills, counter = group(tmp_path, version, path)
    assert kills.since_last() == ""
    counter.write_text("oom 10\noom_kill 3\noom_group_kill 0\n")
    assert kills.since_last() == "out of memory, limit 96Mi"
    assert kills.since_last() == ""


def test_a_group_without_a_limit_names_none(tmp_path: Path) -> None:
    kills, counter = group(tmp_path, 2)
    counter.write_text("oom_kill 3\n")
    (counter.parent / "memory.max").write_text("max\n")
    assert kills.since_last() == "out of memory"


def test_a_system_without_control_groups_counts_none(tmp_path: Path) -> None:
    kills = MemoryKills(str(tmp_path / "none"), str(tmp_path / "nowhere"))
    assert kills.since_last() == ""


def test_the_reader_works_on_this_machine() -> None:
    assert MemoryKills().since_last() == ""
