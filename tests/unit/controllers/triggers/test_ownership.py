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
    both = {"claims": "POST /a, PUT /a", "since": "1", "later": [{"claims": "PUT /a", "since": "2"}]}
    assert ownership_fields(first["served"], "POST /a, PUT /a", "2") == {"served": both}, "each has its own time"
    assert ownership_fields(both, "POST /a, PUT /a", "3") == {"served": both}
    assert ownership_fields(both, "PUT /a", "3") == {"served": {"claims": "PUT /a", "since": "2", "later": None}}
    assert ownership_fields(first["served"], None, "3") == {}, "the field stays as it is"
    assert ownership_fields(first["served"], "", "3") == {"served": None}
    assert ownership_fields({}, "", "3") == {}


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


def routes(ownership: Ownership, key: Key) -> list[tuple[str, frozenset[str]]]:
    return [(route.path, route.served) for route in ownership.routes_of(key)]


POST = frozenset({"POST"})


def test_a_trigger_whose_spec_breaks_keeps_its_claims() -> None:
    ownership = Ownership()
    owner, stranger = serving(trigger(2, "a/owner"), "2030-01-02T00:00:00Z"), trigger(1, "b/stranger")
    ownership.update(*owner)
    ownership.update(*stranger)
    ownership.update(*owner[:2], None)
    assert routes(ownership, owner[0]) == [("/pay", POST)]
    assert ownership.conflict_of(stranger[0]) == ("POST /pay", owner[0])
    restarted = Ownership()  # only the status says what the spec was before
    for key, found, spec in (stranger, (*owner[:2], None)):
        restarted.update(key, found, spec)
    assert routes(restarted, owner[0]) == [("/pay", POST)]
    assert restarted.conflict_of(stranger[0]) == ("POST /pay", owner[0])


def test_a_spec_that_breaks_before_the_status_is_written_keeps_its_claims_and_the_status_gets_them() -> None:
    ownership = Ownership()
    key, document, spec = trigger(2, "a/owner")
    ownership.update(key, document, spec)
    ownership.update(key, document, None)
    assert routes(ownership, key) == [("/pay", POST)]
    assert ownership.claims_of(key) == "POST /pay"


def test_a_spec_that_breaks_after_an_edit_owns_the_new_claims_once_the_status_has_them() -> None:
    """An older trigger of another namespace gets none of them, and the former ones are free."""
    ownership, (key, document, spec) = Ownership(), moved("/old", path="/new")
    ownership.update(key, document, spec)
    ownership.update(key, document, None)
    assert ownership.claims_of(key) == "POST /new"
    status = {"served": ownership_fields(document["status"]["served"], "POST /new", "2030-01-02T00:00:00Z")["served"]}
    ownership.update(key, {**document, "status": status}, None)
    assert routes(ownership, key) == [("/new", POST)]
    stranger = trigger(0, "b/older", "/new")
    ownership.update(*stranger)
    assert ownership.conflict_of(stranger[0]) == ("POST /new", key)
    former = trigger(9, "b/younger", "/old")
    ownership.update(*former)
    assert ownership.conflict_of(former[0]) is None


def test_a_spec_that_never_was_valid_claims_nothing() -> None:
    ownership, (key, document, _) = Ownership(), trigger(1, "a/broken")
    ownership.update(key, document, None)
    assert ownership.routes_of(key) == []
    assert ownership.claims_of(key) is None


def moved(from_path: str, **spec: Any) -> Trigger:
    """A trigger that served that path, and whose spec claims another one now."""
    before = serving(trigger(1, "a/moved", from_path), "2030-01-01T00:00:00Z")[1]
    key, document, found = trigger(1, "a/moved", **spec)
    return key, {**document, "status": before["status"]}, found


def test_a_trigger_leaves_its_route_when_it_owns_the_new_one() -> None:
    ownership, mover = Ownership(), moved("/old", path="/new")
    ownership.update(*mover)
    owner, stranger = serving(trigger(2, "b/owner", "/new"), "2030-01-02T00:00:00Z"), trigger(2, "b/stranger", "/old")
    neighbour = trigger(2, "a/neighbour", "/old")
    for found in (owner, stranger, neighbour):
        ownership.update(*found)
    assert ownership.conflict_of(mover[0]) == ("POST /new", owner[0])
    assert ownership.conflict_of(neighbour[0]) is None, "a namespace may move its own routes around"
    assert ownership.routes_of(mover[0]) == []
    ownership.remove(neighbour[0])
    assert routes(ownership, mover[0]) == [("/old", POST)]
    assert ownership.conflict_of(stranger[0]) == ("POST /old", mover[0])
    ownership.remove(owner[0])
    document = {**mover[1], "status": dict(ownership_fields(mover[1]["status"]["served"], "POST /new", "3"))}
    assert stranger[0] in ownership.update(mover[0], document, mover[2])
    assert ownership.conflict_of(stranger[0]) is None


def test_a_trigger_that_gets_another_method_keeps_its_time_for_the_others() -> None:
    mover = moved("/pay", path="/pay", methods=["POST", "PUT"])
    waiting = trigger(1, "b/waiting", "/pay", methods=["POST"])
    beside = serving(trigger(1, "b/beside", "/{all...}"), "2030-01-02T00:00:00Z")
    assert losers(mover, waiting) == {"waiting": "moved"}
    assert losers(mover, beside) == {}
    assert losers(mover, serving(trigger(1, "b/puts", "/pay", methods=["PUT"]), "2030-01-02T00:00:00Z")) == {
        "moved": "puts"
    }


def test_a_route_that_an_earlier_version_gave_away_stays_with_its_new_owner() -> None:
    mover, owner = moved("/old", path="/new"), serving(trigger(2, "b/owner", "/old"), "2030-01-03T00:00:00Z")
    assert losers(mover, owner, serving(trigger(2, "c/new", "/new"), "2030-01-02T00:00:00Z")) == {"moved": "new"}


def test_on_one_machine_the_more_specific_route_wins_across_namespaces() -> None:
    ownership = Ownership(one_tenant=True)
    for found in (
        trigger(1, "a/all", "/{all...}"),
        trigger(2, "b/card", "/pay/card"),
        trigger(3, "c/late", "/pay/card"),
    ):
        ownership.update(*found)
    assert ownership.conflict_of(("HTTPTrigger", "b", "card")) is None
    assert ownership.conflict_of(("HTTPTrigger", "c", "late")) == ("POST /pay/card", ("HTTPTrigger", "b", "card"))
