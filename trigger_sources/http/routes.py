"""Finds the route of a request, and decides about requests of other origins (CORS). Pure."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Generic, TypeVar
from urllib.parse import unquote

import orjson

from trigger_sources.delivery import Answer
from trigger_sources.http_requests import Cors, Route

T = TypeVar("T")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@,\[\]]*)(?::\d*)?")
_SLASHES = re.compile(r"[/\\]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadTarget(ValueError):
    """A caller's fault: a request target without a meaning, or one that servers read differently."""


class Taken(ValueError):
    """Another route serves the same requests."""

    def __init__(self, other: Route, methods: frozenset[str]) -> None:
        super().__init__(f"{', '.join(sorted(methods))} {other.host or ''}{other.path}")
        self.other = other
        self.methods = methods


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The route of a request, the value that was added with the route, and the values of its parameters."""

    route: Route
    value: T
    path_parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Missing:
    """No route serves the method. `allow`: the methods that routes with this path serve; empty if there is no route."""

    allow: frozenset[str] = frozenset()


class RouteTable(Generic[T]):
    """Routes by host and path. The most specific one that serves the method wins, in whichever order they are added.

    A named host is more specific than all hosts. Paths are compared segment by segment from the left: a literal is more
    specific than a parameter, and a parameter is more specific than `{name...}`.
    """

    def __init__(self) -> None:
        self._roots: dict[str | None, _Node[T]] = {}

    def add(self, route: Route, value: T, *, over: Collection[Route] = ()) -> None:
        """Raises Taken if there is a route with the same host, the same shape of path and one of its methods.

        It comes before the routes in `over`, which may be the same.
        """
        entries = self._entries(route)
        for other, _ in entries:
            if (common := other.served & route.served) and other not in over:
                raise Taken(other, common)
        entries.insert(0, (route, value))

    def add_behind(self, route: Route, value: T) -> None:
        """The route gets the requests that the routes with its host and shape of path do not serve."""
        self._entries(route).append((route, value))

    def remove(self, route: Route) -> None:
        entries = self._entries(route)
        entries[:] = [entry for entry in entries if entry[0] is not route]

    def match(
        self, host: str, method: str, segments: Sequence[str], among: Callable[[T], bool] | None = None
    ) -> Found[T] | Missing:
        """`host` as `host_of` gives it, `segments` as `segments_of`. `among` selects routes by their values."""
        allow: frozenset[str] = frozenset()
        for root in (self._roots.get(host), self._roots.get(None)):
            if root is None:
                continue
            for entries, values in root.matching(segments, 0, ()):
                for route, value in entries:
                    served = route.served
                    if method in served and (among is None or among(value)):
                        return Found(route, value, dict(zip(parameters_of(route.path), values, strict=True)))
                    allow |= served
        return Missing(allow)

    def _entries(self, route: Route) -> list[tuple[Route, T]]:
        """The list of the routes with this one's host and shape of path."""
        return self._roots.setdefault(route.host and host_of(route.host), _Node()).place_of(route)


class RouteIndex(Generic[T]):
    """Routes by path. It finds the routes that may match the same request as another route."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, route: Route, value: T) -> None:
        self._root.place_of(route).append((route, value))

    def remove(self, route: Route) -> None:
        entries = self._root.place_of(route)
        entries[:] = [entry for entry in entries if entry[0] is not route]

    def overlapping(self, route: Route) -> Iterator[tuple[Route, T]]:
        """The routes that overlap by path, with any host and methods; the route itself is among them."""
        for entries in self._root.overlapping(route.path.split("/")[1:], 0):
            yield from entries


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: "dict[str, _Node[T]]" = field(default_factory=dict)
    parameter: "_Node[T] | None" = None
    here: list[tuple[Route, T]] = field(default_factory=list)
    rest: list[tuple[Route, T]] = field(default_factory=list)

    def place_of(self, route: Route) -> list[tuple[Route, T]]:
        """The list of the routes with this one's shape of path."""
        node = self
        for segment in route.path.split("/")[1:]:
            if not segment.startswith("{"):
                node = node.literals.setdefault(segment, _Node())
            elif segment.endswith("...}"):
                return node.rest
            else:
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
        return node.here

    def overlapping(self, path: Sequence[str], index: int) -> "Iterator[list[tuple[Route, T]]]":
        """The lists of the routes that may match a request that this route's path matches."""
        if index == len(path):
            yield self.here
            return
        yield self.rest
        segment, rank = path[index], _rank(path[index])
        following = [found for name, found in self.literals.items() if name or rank == 0] if rank < 2 else []
        if rank == 2 and (found := self.literals.get(segment)) is not None:
            following.append(found)
        if segment and self.parameter is not None:
            following.append(self.parameter)
        for node in following:
            if rank == 0:
                yield node.here
            yield from node.overlapping(path, index + (rank > 0))

    def matching(
        self, segments: Sequence[str], index: int, values: tuple[str, ...]
    ) -> "Iterator[tuple[list[tuple[Route, T]], tuple[str, ...]]]":
        """The lists of routes that match, most specific first, each with the parameters' values."""
        if index == len(segments):
            yield self.here, values
            return
        segment = segments[index]
        literal = self.literals.get(segment)
        if literal is not None:
            yield from literal.matching(segments, index + 1, values)
        if self.parameter is not None and segment:
            yield from self.parameter.matching(segments, index + 1, (*values, segment))
        yield self.rest, (*values, "/".join(segments[index:]))


def problem_of(path: str) -> str | None:
    """The reason why this cannot be a route's path; None if it can."""
    if not path.startswith("/"):
        return f"{path!r}: a path begins with /"
    if any(character in "?#%\\" or character.isspace() or not character.isprintable() for character in path):
        return f"{path!r}: a path has no ?, #, %, backslash or space; write it decoded"
    segments = path.split("/")[1:]
    names = []
    for index, segment in enumerate(segments):
        if _has_dots(segment):
            return f"{path!r}: {segment!r} never matches, because clients resolve it"
        if not ("{" in segment or "}" in segment):
            continue
        name = segment.removeprefix("{").removesuffix("}")
        rest = name.endswith("...")
        name = name.removesuffix("...")
        if segment not in (f"{{{name}}}", f"{{{name}...}}") or not name.isidentifier():
            return f"{path!r}: {segment!r}: a parameter is a whole segment: {{name}}, or {{name...}} at the end"
        if rest and index != len(segments) - 1:
            return f"{path!r}: {segment!r} takes all following segments: it must be the last one"
        names.append(name)
    if len(set(names)) != len(names):
        return f"{path!r}: a parameter's name occurs twice"
    return None


def claims_of(route: Route) -> frozenset[str]:
    """The route's claims, one for each method. Two routes with a common claim cannot be in the same table."""
    shape = re.sub(r"\{[^}.]*\}", "{}", re.sub(r"\{[^}]*\.\.\.\}", "{...}", route.path))
    return frozenset(f"{method} {host_of(route.host) if route.host else ''}{shape}" for method in route.served)


def route_of_claims(claims: Collection[str]) -> Route | None:
    """The route with these claims of `claims_of`. None if they are not the claims of one route."""
    methods, places = set(), set()
    for claim in claims:
        method, _, place = claim.partition(" ")
        methods.add(method)
        places.add(place)
    if len(places) != 1 or not methods <= set(METHODS):
        return None
    host, slash, rest = places.pop().partition("/")
    names = [_named(segment, index) for index, segment in enumerate(rest.split("/"))]
    path = slash + "/".join(names)
    return Route(path, sorted(methods), host or None) if problem_of(path) is None else None


def _named(segment: str, index: int) -> str:
    """The segment of a claim with a name for its parameter."""
    return {"{}": f"{{p{index}}}", "{...}": f"{{p{index}...}}"}.get(segment, segment)


def takes_from(route: Route, other: Route) -> bool:
    """Whether `route`, if it is added, gets requests that `other` gets without it, being as specific or more.

    A browser's preflight counts: the gateway answers it for `other` while no route serves OPTIONS there.
    """
    mine, theirs = (None if found.host is None else host_of(found.host) for found in (route, other))
    if None not in (mine, theirs) and mine != theirs:
        return False
    more_specific = _compared(route.path.split("/")[1:], other.path.split("/")[1:])
    if more_specific is None:
        return False
    if "OPTIONS" in route.served - other.served:
        return True
    wins = more_specific >= 0 if mine == theirs else theirs is None
    return wins and bool(route.served & other.served)


def _compared(one: Sequence[str], other: Sequence[str]) -> int | None:
    """Compares two paths: above 0, the first is more specific; 0, neither is; None, no request matches both."""
    found = 0
    for mine, theirs in zip_longest(one, other):
        if mine is None or theirs is None:
            return None
        ranks = [_rank(mine), _rank(theirs)]
        found = found or ranks[0] - ranks[1]
        if 0 in ranks:
            return found
        if ranks == [2, 2] and mine != theirs:
            return None
        if 1 in ranks and "" in (mine, theirs):
            return None  # a parameter is never empty
    return found


def _rank(segment: str) -> int:
    return 2 if not segment.startswith("{") else 0 if segment.endswith("...}") else 1


def parameters_of(path: str) -> list[str]:
    """The names of the path's parameters, in order."""
    return [segment.strip("{}").removesuffix("...") for segment in path.split("/") if segment.startswith("{")]


def segments_of(path: str) -> list[str]:
    """The decoded segments of a request's raw path. Raises BadTarget.

    The path is split before it is decoded, so that %2F stays within its segment. Paths that the next server may read
    differently are refused: dot segments, also between encoded slashes or backslashes, and a % that encodes nothing.
    """
    if not path.startswith("/"):
        raise BadTarget("the path does not begin with /")
    segments = path.split("/")[1:]
    if "%" in path:
        if _STRAY_PERCENT.search(path):
            raise BadTarget("the path has a % that encodes nothing")
        try:
            segments = [unquote(segment, errors="strict") for segment in segments]
        except UnicodeDecodeError:
            raise BadTarget("the path is not UTF-8") from None
    for segment in segments:
        if _has_dots(segment):
            raise BadTarget("the path has dot segments")
        if not segment.isprintable():
            raise BadTarget("the path has characters that cannot be printed")
    return segments


def _has_dots(segment: str) -> bool:
    """Whether the segment is or contains a dot segment that some servers resolve, as `..` or `..;x`."""
    return "." in segment and any(part.partition(";")[0] in (".", "..") for part in _SLASHES.split(segment))


def host_of(header: str) -> str:
    """The host of a Host header: without its port, in lower case. Raises BadTarget."""
    found = _HOST.fullmatch(header.strip().lower())
    if found is None:
        raise BadTarget("the Host header is not a host")
    return found[1].removesuffix(".")


def preflight(route: Route, origin: str, headers: str) -> Answer:
    """The answer to a browser's preflight; `headers` are those that it wants to send."""
    cors = route.cors
    assert cors is not None
    shared = cors_headers(cors, origin)
    if shared[0][0] == "vary":
        return refusal(403, f"origin {origin!r} is not allowed here")
    allowed = headers if "*" in cors.headers else ", ".join(cors.headers)
    found = [
        *shared,
        ("access-control-allow-methods", ", ".join(cors.methods or sorted(route.served))),
        ("access-control-max-age", str(cors.max_age_seconds)),
    ]
    if allowed:
        found.append(("access-control-allow-headers", allowed))
    return Answer(204, found)


def cors_headers(cors: Cors, origin: str) -> list[tuple[str, str]]:
    """The headers that let a page of that origin see an answer, and that tell caches that others may not."""
    if "*" in cors.origins:
        return [("access-control-allow-origin", "*")]
    if origin not in cors.origins:
        return [("vary", "origin")]
    found = [("access-control-allow-origin", origin), ("vary", "origin")]
    if cors.credentials:
        found.append(("access-control-allow-credentials", "true"))
    return found


def refusal(status: int, error: str, *headers: tuple[str, str]) -> Answer:
    """An answer of the gateway itself: a small JSON object with the error."""
    body = orjson.dumps({"status": status, "error": error}) + b"\n"
    return Answer(status, (("content-type", "application/json"), *headers), body)
