"""`deploy` ends at the first hopeless state, and waits through the others."""

from kubeirq.on_cluster.readiness import gives_up

NAME = ("Function", "team", "f")
UNSEEN = "no controller has processed it yet"


def test_a_function_that_crashes_again_and_again_is_given_up_after_a_while() -> None:
    since: dict[tuple[str, str, str], float] = {}
    found = [gives_up(since, NAME, "CrashLoopBackOff", "it crashes", seconds) for seconds in (5, 15, 20, 21)]
    assert found == [False, False, False, True]


def test_a_state_that_passes_starts_the_count_anew() -> None:
    since: dict[tuple[str, str, str], float] = {}
    assert not gives_up(since, NAME, "RolloutStuck", "stuck", 1)
    assert not gives_up(since, NAME, "RollingOut", "goes on", 10)
    assert not gives_up(since, NAME, "RolloutStuck", "stuck", 20)
    assert gives_up(since, NAME, "RolloutStuck", "stuck", 36)


def test_a_slow_start_is_not_given_up() -> None:
    for reason in ("Starting", "RollingOut", "Unschedulable", "ImagePullBackOff", "FunctionDown", ""):
        assert not gives_up({}, NAME, reason, "waits", 170)


def test_without_a_controller_nothing_is_waited_for() -> None:
    assert not gives_up({}, NAME, "", UNSEEN, 20)
    assert gives_up({}, NAME, "", UNSEEN, 31)
