"""Thousands of expressions fire when Kubernetes' own cron says, apart from the differences that docs/cron.md lists."""

import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from servers.cron_differences import ClockChange, Difference, clock_changes, differences, same_as
from servers.kubernetes_cron import Answer, Question, ask

from trigger_sources.cron.expression import parse
from trigger_sources.cron.schedule import Schedule, checked

START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
YEARS = 5 * 366 * 86_400  # Kubernetes looks no further ahead
ONLY_KUBERNETES = {  # by the example in the page
    "@every 1h": r"@every .*",
    "1,,2 * * * *": r".*(^|[ ,]),.*|.*,( |$).*",
    "+5 * * * *": r".*\+\d.*",
    "*-5 * * * *": r".*[*?]-.*",
}
ONLY_KUBEIRQ = {  # with Kubernetes' reason
    "0 0 * * 7": r"end of range \(7\) above maximum \(6\)",
    "0 0 L * *": r"failed to parse int from L:",
    "0 0 15W * *": r"failed to parse int from \d+W:",
    "0 0 * * MON#1": r"failed to parse int from \w+#[1-5]:",
    "0 0 * * L5": r"failed to parse int from (L\w+|\w+L):",
    "@Hourly": r"unrecognized descriptor: @Hourly",
    "0 0 * * FRI-MON": r"beginning of range \(\d+\) beyond end of range \(\d+\)",
}
FIELDS = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, ("JAN", "mar", "Dec")), (0, 6, ("SUN", "wed", "Sat")))
ODDITIES = (
    "R",
    "H",
    "L",
    "W",
    "15W",
    "L5",
    "5L",
    "MON#1",
    "2#5",
    "7",
    ",",
    "+5",
    "*-5",
    "?-1",
    "1-2-3",
    "-5",
    "5-",
    "*/0",
)


def _term(chance: random.Random, lowest: int, highest: int, names: Sequence[str]) -> str:
    def value() -> str:
        return chance.choice(names) if names and chance.random() < 0.2 else str(chance.randint(lowest, highest))

    if chance.random() < 0.03:
        return chance.choice(ODDITIES)
    first, last = sorted(chance.randint(lowest, highest) for _ in range(2))
    backwards = f"{value()}-{value()}" if chance.random() < 0.1 else f"{first}-{last}"
    base = chance.choice(("*", "*", "?", value(), f"{first}-{first}", f"{first}-{last}", backwards))
    return f"{base}/{chance.randint(1, 40)}" if chance.random() < 0.25 else base


def _expression(chance: random.Random, *, seconds: bool = False) -> str:
    fields = ((0, 59, ()), *FIELDS) if seconds else FIELDS
    return " ".join(",".join(_term(chance, *field) for _ in range(chance.choice((1, 1, 1, 2, 3)))) for field in fields)


def _refusal(expression: str) -> str | None:
    try:
        checked(expression, "UTC")
    except ValueError as error:
        return str(error)
    return None


def _times(question: Question, count: int) -> Sequence[int]:
    schedule, moment, found = Schedule(question.expression, ZoneInfo(question.zone)), question.after, []
    for _ in range(count):
        moment = int(schedule.next_after(datetime.fromtimestamp(moment, UTC)).timestamp())
        found.append(moment)
    return found


def _assert_alike(question: Question, answer: Answer) -> bool:
    """Whether both sides accept the expression."""
    expression, refusal = question.expression, _refusal(question.expression)
    if refusal is not None:
        never = "never fires" in refusal and not answer.error and not answer.times
        is_listed = any(re.fullmatch(pattern, expression) for pattern in ONLY_KUBERNETES.values())
        assert never or answer.error or is_listed, (expression, refusal, answer)
        return False
    if answer.error:
        assert any(re.match(pattern, answer.error) for pattern in ONLY_KUBEIRQ.values()), (expression, answer)
        return False
    found = _times(question, len(answer.times) + 1)
    assert list(found[: len(answer.times)]) == list(answer.times), expression
    if len(answer.times) < question.count:
        assert found[-1] > (answer.times[-1] if answer.times else question.after) + YEARS - 366 * 86_400, expression
    return True


@pytest.mark.parametrize("seconds", [False, True], ids=["five fields", "six fields"])
def test_in_utc_each_expression_is_refused_by_both_or_fires_at_the_same_times(seconds: bool) -> None:
    chance = random.Random(20260101)
    questions = [
        Question(_expression(chance, seconds=seconds), "UTC", START + chance.randint(0, 10 * 366 * 86_400), 8, seconds)
        for _ in range(4_000)
    ]
    both = [_assert_alike(question, answer) for question, answer in zip(questions, ask(questions), strict=True)]
    assert sum(both) > 1_500, "most are refused, which shows little"


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_in_a_zone_intervals_fire_at_the_same_times_and_fixed_times_do_so_between_clock_changes(zone: str) -> None:
    chance = random.Random(20261025)
    questions = []
    while len(questions) < 1_500:
        expression = _expression(chance)
        if _refusal(expression) is None:
            near_a_change = datetime(2026, chance.choice((3, 10, 11)), chance.randint(1, 31) % 30 + 1, tzinfo=UTC)
            questions.append(Question(expression, zone, int(near_a_change.timestamp()) + chance.randint(0, 86_400), 12))
    compared = 0
    for question, answer in zip(questions, ask(questions), strict=True):
        if answer.error or not answer.times:
            continue
        found = _times(question, len(answer.times))
        if not parse(question.expression).is_interval:
            end = min(found[-1], answer.times[-1])
            found = [time for time in found if time <= end and not _is_near_a_change(time, zone)]
            times = [time for time in answer.times if time <= end and not _is_near_a_change(time, zone)]
            assert found == times, question
        else:
            assert list(found) == list(answer.times), question
        compared += 1
    assert compared > 1_000


@pytest.mark.parametrize("row", differences(), ids=lambda row: row.expression)
def test_the_page_says_how_kubernetes_reads_an_expression(row: Difference) -> None:
    (answer,) = ask([Question(row.expression, "UTC", START, 40)])
    assert bool(answer.error) == row.kubernetes.startswith("refused"), answer
    assert row.kubernetes.startswith("never") == (not answer.error and not answer.times)
    if same := same_as(row.kubernetes):
        assert [answer] == ask([Question(same, "UTC", START, 40)])


@pytest.mark.parametrize("row", clock_changes(), ids=lambda row: f"{row.expression} {row.day}")
def test_the_page_says_when_kubernetes_fires_on_the_day_of_a_clock_change(row: ClockChange) -> None:
    zone = ZoneInfo(row.zone)
    midnight = datetime.fromisoformat(f"{row.day}T00:00:00").replace(tzinfo=zone) - timedelta(seconds=1)
    (answer,) = ask([Question(row.expression, row.zone, int(midnight.timestamp()), 10)])
    local = [datetime.fromtimestamp(time, zone).isoformat() for time in answer.times]
    assert [time[11:16] for time in local if time.startswith(row.day)] == row.kubernetes


def test_each_difference_that_is_allowed_here_is_in_the_page() -> None:
    assert {row.expression for row in differences()} >= ONLY_KUBERNETES.keys() | ONLY_KUBEIRQ.keys()
    for expression, pattern in ONLY_KUBERNETES.items():
        assert re.fullmatch(pattern, expression), expression
    answers = ask(Question(expression, "UTC", START, 1) for expression in ONLY_KUBEIRQ)
    for answer, reason in zip(answers, ONLY_KUBEIRQ.values(), strict=True):
        assert re.match(reason, answer.error)


def _is_near_a_change(time: int, zone: str) -> bool:
    around = [datetime.fromtimestamp(time + seconds, ZoneInfo(zone)).utcoffset() for seconds in (-86_400, 86_400)]
    return around[0] != around[1]
