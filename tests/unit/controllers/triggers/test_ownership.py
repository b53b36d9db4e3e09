"""Which of several triggers has a route, whichever order they are seen in."""

from itertools import permutations
from typing import Any

import pytest

from controllers.triggers.ownership import Key, Ownership, ownership_fields
from trigger_sources.http.source import HTTPTrigger

Trigger = tuple[Key, dict[str, Any], HTTPTrigger]


def trigger(second: int, place: str, path: str = "/pay", **spec: Any) -> Trigger:
    namespace, name = place.split("/")
    metadata = {"creationTimestamp": f"2030-01-01T00:00:{second:02}Z", "namespace": namespace, "name": name}
    found = HTTPTrigger.model_validate({"function": "f", "path": path, **spec})
    return ("HTTPTrigger", namespace, name), {"metadata": metadata}, found


def losers(*triggers: Trigger) -> dict[str, str]:
    """The loser and the winner of each claim, by name: the same in every order, and for every trigger concerned."""
    outcomes = []
    for order in permutations(triggers):
        ownership, told = Ownership(), dict[Key, tuple[str, Key] | None]()
        for key, found, spec in order:
            for concerned in ownership.update(key, found, spec) | {key}:
                told[concerned] = ownership.conflict_of(concerned)
        outcomes.append({key[2]: lost[1][2] for key, lost in told.items() if lost is not None})
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("/pay", {}),
        ("/pay/{id}", {}),
        ("/pay/card", {}),
        ("/pay/{rest...}", {"host": "shop.example"}),
        ("/pay/card", {"methods": ["OPTIONS"]}),
    ],
)
def test_a_younger_trigger_of_another_namespace_takes_no_requests(path: str, spec: dict[str, Any]) -> None:
    older = [trigger(1, "a/all", "/pay/{rest...}"), trigger(1, "a/pay", "/pay")]
    assert "theirs" in losers(*older, trigger(2, "b/theirs", path, **spec))


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("/pay/{rest...}", {}),
        ("/{all...}", {"host": "elsewhere.example"}),
        ("/{all...}", {}),
        ("/pay/card", {"methods": ["GET"]}),
        ("/pay/card", {"host": "elsewhere.example"}),
        ("/pays/card", {}),
    ],
)
def test_what_is_less_specific_or_apart_is_served_beside_it(path: str, spec: dict[str, Any]) -> None:
    older = trigger(1, "a/pay", "/pay/{id}", host="shop.example")
    assert losers(older, trigger(2, "b/theirs", path, **spec)) == {}


def test_within_a_namespace_the_more_specific_route_wins_whatever_its_age() -> None:
    assert losers(trigger(1, "a/all", "/pay/{rest...}"), trigger(2, "a/card", "/pay/card")) == {}
    assert losers(trigger(1, "a/one", "/pay/{id}"), trigger(2, "a/two", "/pay/{number}")) == {"two": "one"}


def test_the_older_may_be_the_more_specific_one() -> None:
    assert losers(trigger(1, "a/card", "/pay/card"), trigger(2, "b/all", "/pay/{rest...}")) == {}


def test_of_one_second_the_namespace_and_name_decide() -> None:
    assert losers(trigger(1, "b/card", "/pay/card"), trigger(1, "a/all", "/pay/{rest...}")) == {"card": "all"}


def serving(found: Trigger, since: str) -> Trigger:
    """As its status says once it was served."""
    key, document, spec = found
    return key, {**document, "status": dict(ownership_fields({}, ", ".join(sorted(spec.claims(key[2]))), since))}, spec


def test_who_serves_keeps_what_an_older_trigger_is_changed_to_claim() -> None:
    younger = serving(trigger(2, "b/card", "/pay/card"), "2030-01-02T00:00:00Z")
    assert losers(trigger(1, "a/all", "/pay/{rest...}"), younger) == {}, "it takes none of them"
    assert losers(trigger(1, "a/again", "/pay/card"), younger) == {"again": "card"}
    assert losers(trigger(1, "a/new", "/pay/card", host="shop.example"), younger) == {"new": "card"}
    moved = trigger(1, "a/moved", "/pay/card")
    status = serving(trigger(1, "a/moved", "/elsewhere"), "2030-01-01T00:00:00Z")[1]["status"]
    assert losers((moved[0], {**moved[1], "status": status}, moved[2]), younger) == {"moved": "card"}


def test_of_two_that_serve_the_one_that_did_so_first_goes_on() -> None:
    first = serving(trigger(2, "b/first", "/pay"), "2030-01-02T00:00:00Z")
    second = serving(trigger(1, "a/second", "/pay"), "2030-01-03T00:00:00Z")
    assert losers(first, second) == {"second": "first"}


def test_a_status_says_since_when_the_same_is_served() -> None:
    first = ownership_fields({}, "POST /a", "1")
    assert first == {"served": {"claims": "POST /a", "since": "1"}}
    assert ownership_fields(first["served"], "POST /a", "2") == first
    assert ownership_fields(first["served"], "PUT /a", "2") == {"served": {"claims": "PUT /a", "since": "2"}}
    assert ownership_fields(first["served"], "", "3") == {}


def test_an_exposed_trigger_serves_nothing_on_the_gateway() -> None:
    exposed = {"expose": {"ingress": {}}}
    assert losers(trigger(1, "a/all", "/pay/{rest...}", **exposed), trigger(2, "b/card", "/pay/card")) == {}


def test_who_was_refused_is_looked_at_again_when_the_older_goes_or_changes() -> None:
    ownership = Ownership()
    older, younger = trigger(1, "a/all", "/pay/{rest...}"), trigger(2, "b/card", "/pay/card")
    for found in (older, younger):
        ownership.update(*found)
    assert ownership.conflict_of(younger[0]) == ("some of /pay/{rest...}", older[0])
    moved = trigger(1, "a/all", "/elsewhere")
    assert younger[0] in ownership.update(*moved)
    assert ownership.conflict_of(younger[0]) is None
    assert younger[0] in ownership.update(*older)
    assert younger[0] in ownership.remove(older[0])
    assert ownership.conflict_of(younger[0]) is None
    assert ownership.update(*younger[:2], None) == {younger[0]}
