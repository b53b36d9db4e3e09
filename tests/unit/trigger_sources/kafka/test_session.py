"""A member starts events only while the coordinator counts it in and takes its commits."""

import time

from trigger_sources.kafka.session import Session


def test_it_lasts_for_its_seconds_after_the_last_good_heartbeat() -> None:
    renewed: list[bool] = []
    session = Session(100.0)
    session.on_renewed = lambda: renewed.append(session.lasts())
    assert not session.lasts()
    session.renew(time.monotonic() - 101)
    assert (session.lasts(), renewed) == (False, [])
    session.renew(time.monotonic())
    session.renew(time.monotonic() - 200)  # an older heartbeat that comes late takes nothing back
    assert (session.lasts(), renewed) == (True, [True])


def test_it_does_not_last_while_commits_are_refused() -> None:
    renewed: list[bool] = []
    session = Session(100.0)
    session.on_renewed = lambda: renewed.append(session.lasts())
    session.renew(time.monotonic())
    session.may_commit(False)
    session.renew(time.monotonic())
    assert (session.lasts(), renewed) == (False, [True])
    session.may_commit(True)
    session.may_commit(True)
    assert (session.lasts(), renewed) == (True, [True, True])
