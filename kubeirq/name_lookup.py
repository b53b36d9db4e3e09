"""Finds functions and triggers by the names and kinds that a person types. Pure."""

import difflib
from collections.abc import Collection, Sequence

from kubeirq.fabric_client import Refused, ResourceView
from trigger_sources.spec import problem_of_name

FUNCTION = "function"
TRIGGER = "trigger"
ANY = f"{FUNCTION} or {TRIGGER}"


def namespace_in(name: str, kinds: Collection[str]) -> str | None:
    """The namespace of NAMESPACE/NAME; None for NAME and KIND/NAME."""
    front, slash, _ = name.rpartition("/")
    is_kind = front.lower() in {FUNCTION, TRIGGER, *(kind.lower() for kind in kinds)}
    return front if slash and not is_kind and problem_of_name(front) is None else None


def find_one(views: Sequence[ResourceView], name: str, thing: str = ANY, where: str = "") -> ResourceView:
    """The one that NAME, KIND/NAME or NAMESPACE/NAME means. Raises Refused if there is none, or more than one.

    `thing` and `where` are for the error text: what `views` holds, and in which namespace.
    """
    matching = find_all(views, name, thing, where)
    several = {(view["kind"], view["namespace"], view["name"]) for view in matching}
    if len(several) > 1:
        full_names = ", ".join(f"{kind}/{last}" for kind, _, last in sorted(several))
        raise Refused(f"{name!r} has several matches{where}: {full_names}; use one of these names")
    return matching[0]


def find_logged(views: Sequence[ResourceView], name: str, where: str = "") -> ResourceView:
    """The one whose log NAME means: a function before a trigger of the same name. Raises Refused as `find_one`."""
    matching = find_all(views, name, where=where)
    functions = [view for view in matching if view["kind"].lower() == FUNCTION]
    return find_one(functions or matching, name, where=where)


def find_all(views: Sequence[ResourceView], name: str, thing: str = ANY, where: str = "") -> list[ResourceView]:
    """All that NAME, KIND/NAME or NAMESPACE/NAME means. Raises Refused, with the nearest name, if there is none."""
    front, _, last = name.rpartition("/")
    matching = [
        view
        for view in views
        if view["name"] == last and (not front or front.lower() in (view["kind"].lower(), view["namespace"]))
    ]
    if matching:
        return matching
    names = sorted({view["name"] for view in views})
    near = difflib.get_close_matches(last, names, 1)
    way_out = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(names) or 'none'}"
    raise Refused(f"no {thing} {name!r}{where}; {way_out}")


def select(
    views: Sequence[ResourceView], selector: str | None, kinds: Collection[str], where: str = ""
) -> list[ResourceView]:
    """Those of a kind (in any case, plural or not) or with that name; None selects all. Raises Refused."""
    if selector is None:
        return list(views)
    kind = selector.lower().rstrip("s")
    if kind in (FUNCTION, TRIGGER):
        return [view for view in views if (view["kind"] == "Function") == (kind == FUNCTION)]
    if kind in {known.lower() for known in kinds}:
        return [view for view in views if view["kind"].lower() == kind]
    return find_all(views, selector, where=where)
