"""The memory of a process in one budget: it is bounded, no account stops another, and what is given back is free."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.budget import Account, Budget
from trigger_sources.memory_limit import memory_limit

LIMIT = 1_000


def fill(account: Account) -> None:
    while more := account.allowance(account.used):
        account.use(account.used + more)


def test_one_greedy_account_leaves_a_half_of_the_shared_part_and_two_leave_a_third() -> None:
    budget = Budget(LIMIT)
    one, two, idle = budget.open(), budget.open(), budget.open()
    fill(one)
    assert budget.free_of_shared == pytest.approx(250, abs=2)
    for _ in range(20):
        fill(two)
        one.use(max(0, one.used - 50))  # its events settle, and it takes others
        fill(one)
    assert one.used == pytest.approx(two.used, abs=50)
    assert budget.free_of_shared >= 500 // 3 - 50
    assert idle.allowance(0) >= budget.floor


def test_what_was_given_back_is_free_for_the_others() -> None:
    budget = Budget(LIMIT)
    one, two = budget.open(), budget.open()
    fill(one)
    before = two.allowance(0)
    one.close()
    one.close()
    assert budget.used == one.used > 0, "it is closed, and still uses that"
    one.use(0)
    assert budget.used == 0
    assert two.allowance(0) == 750 > before


def test_an_account_without_anything_may_take_one_event_even_if_nothing_is_left() -> None:
    budget = Budget(LIMIT)
    budget.open().use(2 * LIMIT)
    assert budget.open().allowance(0) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "close", "take", "settle"]), st.integers(0, 9), st.integers(0, 100)),
        max_size=80,
    )
)
def test_the_bound_holds_and_every_account_flows(steps: list[tuple[str, int, int]]) -> None:
    """`take` uses a part of the allowance. Accounts come and go; each finds its floor as long as the number stays."""
    budget = Budget(LIMIT)
    accounts: list[Account] = []
    for step, index, percent in steps:
        account = accounts[index % len(accounts)] if accounts else None
        if step == "open" or account is None:
            accounts.append(budget.open())
        elif step == "close":
            account.use(0)
            account.close()
            accounts.remove(account)
        elif step == "take":
            account.use(account.used + account.allowance(account.used) * percent // 100)
        else:
            account.use(account.used * percent // 100)
        assert budget.used == sum(found.used for found in accounts)
        assert budget.used <= LIMIT + len(accounts), "one event of one byte for each empty account"
        assert all(found.used or found.allowance(0) for found in accounts)
    for account in accounts:
        account.use(0)
        account.close()
    assert (budget.used, budget.free_of_shared, budget.floor) == (0, LIMIT // 2, LIMIT // 2)


@given(st.integers(1, 30), st.lists(st.integers(0, 29), max_size=60))
def test_greedy_neighbours_leave_each_account_its_floor(number: int, order: list[int]) -> None:
    budget = Budget(100_000)
    accounts = [budget.open() for _ in range(number)]
    last = accounts[-1]
    for index in order:
        if (account := accounts[index % number]) is not last:
            fill(account)
    assert last.allowance(0) >= budget.floor
    assert budget.used <= budget.limit


# --- the limit that the budget follows


def process(folder: Path, groups: str, **limits: str) -> tuple[Path, Path]:
    proc, mounted = folder / "proc", folder / "cgroup"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    for path, text in limits.items():
        file = mounted / path.replace("__", "/").replace("_max", ".max").replace("memory_limit", "memory.limit")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return proc, mounted


@pytest.mark.parametrize(
    ("groups", "limits", "found"),
    [
        ("0::/\n", {"memory_max": "268435456\n"}, 268435456),
        ("0::/\n", {"memory_max": "max\n"}, None),
        ("0::/pods/one\n", {"pods__one__memory_max": "max", "pods__memory_max": "300000000"}, 300000000),
        ("0::/not/seen/from/here\n", {"memory_max": "268435456"}, 268435456),
        ("4:memory:/pods/one\n0::/\n", {"memory__memory_limit_in_bytes": "268435456"}, 268435456),
        ("4:cpu,memory:/\n", {"memory__memory_limit_in_bytes": str(2**63 - 4096)}, None),
        ("0::/../..\n", {}, None),
        ("", {}, None),
    ],
)
def test_the_limit_is_that_of_the_container_or_of_the_machine(
    groups: str, limits: dict[str, str], found: int | None, tmp_path: Path
) -> None:
    proc, mounted = process(tmp_path, groups, **limits)
    machine = memory_limit({}, tmp_path / "nowhere", mounted)
    assert memory_limit({}, proc, mounted) == (machine if found is None else found)
    assert machine > 1_000_000_000


def test_a_setting_comes_first(tmp_path: Path) -> None:
    assert memory_limit({"KUBEIRQ_MEMORY_LIMIT": "268435456"}) == 268435456
    for wrong in ("256Mi", "-1", "1024"):
        with pytest.raises(ValueError, match=r"KUBEIRQ_MEMORY_LIMIT: '.*' is not a whole number of bytes from"):
            memory_limit({"KUBEIRQ_MEMORY_LIMIT": wrong})
