"""Routing of requests to triggers, compared with a naive model and with typical cases."""

import re
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.http.routes import (
    METHODS,
    BadTarget,
    Found,
    Missing,
    RouteIndex,
    RouteTable,
    Taken,
    claims_of,
    cors_headers,
    host_of,
    parameters_of,
    preflight,
    problem_of,
    route_of_claims,
    segments_of,
    takes_from,
)
from trigger_sources.http_requests import Cors, Route


def table_of(*routes: Route) -> RouteTable[str]:
    table: RouteTable[str] = RouteTable()
    for route in routes:
        table.add(route, route.path)
    return table


def winner(table: RouteTable[str], path: str, method: str = "POST", host: str = "any") -> str | None:
    found = table.match(host, method, segments_of(path))
    return found.value if isinstance(found, Found) else None


def test_a_literal_wins_over_a_parameter_and_a_parameter_over_the_rest_in_any_order() -> None:
    paths = ["/orders/new", "/orders/{id}", "/orders/{rest...}", "/{all...}"]
    for order in permutations(paths):
        table = table_of(*(Route(path) for path in order))
        assert winner(table, "/orders/new") == "/orders/new"
        assert winner(table, "/orders/7") == "/orders/{id}"
        assert winner(table, "/orders/7/lines") == "/orders/{rest...}"
        assert winner(table, "/orders/") == "/orders/{rest...}"
        assert winner(table, "/orders") == "/{all...}"
        assert winner(table, "/") == "/{all...}"


def test_parameters_are_decoded_and_may_contain_an_encoded_slash() -> None:
    table = table_of(Route("/{user}/files/{path...}"))
    found = table.match("any", "POST", segments_of("/a%2Fb/files/x%20y/z"))
    assert isinstance(found, Found)
    assert found.path_parameters == {"user": "a/b", "path": "x y/z"}


def test_a_named_host_wins_and_another_host_does_not_see_it() -> None:
    table = table_of(Route("/{a}", host="Shop.example"), Route("/orders"))
    assert winner(table, "/orders", host=host_of("SHOP.example:8080")) == "/{a}"
    assert winner(table, "/orders", host="other.example") == "/orders"
    assert winner(table, "/else", host="other.example") is None


def test_a_less_specific_route_serves_the_methods_that_the_more_specific_one_does_not() -> None:
    table = table_of(Route("/orders/new", ("GET",)), Route("/orders/{id}", ("POST", "GET")))
    assert winner(table, "/orders/new", "POST") == "/orders/{id}"
    assert winner(table, "/orders/new", "HEAD") == "/orders/new"
    assert table.match("any", "PUT", ["orders", "new"]) == Missing(frozenset({"GET", "HEAD", "POST"}))
    assert table.match("any", "PUT", ["nowhere"]) == Missing()


def test_routes_that_differ_only_in_parameter_names_conflict() -> None:
    table = table_of(Route("/orders/{id}", ("GET", "POST"), trigger="default/first"))
    with pytest.raises(Taken) as taken:
        table.add(Route("/orders/{number}", ("POST", "PUT")), "second")
    assert taken.value.other.trigger == "default/first"
    assert taken.value.methods == {"POST"}
    table.add(Route("/orders/{number}", ("PUT",)), "third")
    table.add(Route("/orders/{number}", ("POST",), host="shop.example"), "fourth")


def test_a_removed_route_no_longer_matches_and_can_be_added_again() -> None:
    first, second = Route("/a/{x}"), Route("/a/{x}", ("PUT",))
    table = table_of(first, second)
    table.remove(first)
    assert table.match("any", "POST", ["a", "1"]) == Missing(frozenset({"PUT"}))
    table.add(Route("/a/{y}"), "again")
    assert winner(table, "/a/1") == "again"


words = st.sampled_from(["a", "b", "c"])
patterns = st.builds(
    lambda segments, rest: "/" + "/".join([*segments, *(["{rest...}"] if rest else [])]),
    st.lists(st.one_of(words, st.just("{}")), min_size=1, max_size=4),
    st.booleans(),
).map(lambda path: re.sub(r"\{\}", lambda found: f"{{p{found.start()}}}", path))


@given(
    paths=st.lists(patterns, min_size=1, max_size=8, unique_by=lambda path: re.sub(r"\{p\d+\}", "{}", path)),
    request=st.lists(words, min_size=1, max_size=5),
    order=st.randoms(),
)
def test_the_winner_is_the_most_specific_of_all_that_match(paths: list[str], request: list[str], order: object) -> None:
    assert all(problem_of(path) is None for path in paths)

    def matches(path: str) -> bool:
        pattern = re.sub(r"\\\{p\d+\\\}", "[^/]+", re.escape(path)).replace(r"\{rest\.\.\.\}", ".*")
        return re.fullmatch(pattern, "/" + "/".join(request)) is not None

    def rank(path: str) -> list[int]:
        return [2 if "..." in part else 1 if part.startswith("{") else 0 for part in path.split("/")[1:]]

    shuffled = list(paths)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = min(filter(matches, paths), key=rank, default=None)
    found = table_of(*map(Route, shuffled)).match("any", "POST", request)
    assert (found.value if isinstance(found, Found) else None) == expected
    if isinstance(found, Found):
        assert list(found.path_parameters) == parameters_of(found.value)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("orders", "begins with /"),
        ("/a?b", "no \\?"),
        ("/a%20b", "decoded"),
        ("/a b", "decoded"),
        ("/a/../b", "never matches"),
        ("/a{id}", "whole segment"),
        ("/{id", "whole segment"),
        ("/{}", "whole segment"),
        ("/{1}", "whole segment"),
        ("/{rest...}/a", "last one"),
        ("/{a}/{a}", "twice"),
    ],
)
def test_an_invalid_path_is_refused_with_the_reason(path: str, problem: str) -> None:
    found = problem_of(path)
    assert found is not None
    assert re.search(problem, found)


def test_valid_paths_have_no_problem() -> None:
    for path in ("/", "/orders/", "/orders/{id}/lines/{rest...}", "/größe", "/a.b/c~d"):
        assert problem_of(path) is None


@pytest.mark.parametrize(
    "path", ["", "a", "*", "/a/../b", "/a/%2e%2e/b", "/.", "/a/%2E", "/%ff", "/a%00b", "/a%0d%0ab"]
)
def test_a_path_that_others_may_read_differently_is_refused(path: str) -> None:
    with pytest.raises(BadTarget):
        segments_of(path)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("Shop.Example:80", "shop.example"),
        ("shop.example.", "shop.example"),
        ("[::1]:8080", "[::1]"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_a_host_is_compared_without_port_and_case(header: str, host: str) -> None:
    assert host_of(header) == host


def test_cors_allows_the_listed_origins_and_no_other() -> None:
    cors = Cors(origins=["https://shop.example"], headers=["content-type"], credentials=True)
    route = Route("/orders", ("POST", "GET"), cors=cors)
    answer = preflight(route, "https://shop.example", "x-anything")
    assert answer.status == 204
    assert dict(answer.headers) == {
        "access-control-allow-origin": "https://shop.example",
        "vary": "origin",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": "content-type",
        "access-control-max-age": "600",
    }
    assert preflight(route, "https://evil.example", "").status == 403
    assert cors_headers(cors, "https://shop.example.evil") == [("vary", "origin")]
    assert cors_headers(cors, "null") == cors_headers(cors, "") == [("vary", "origin")]


def test_a_star_allows_every_origin_and_header() -> None:
    route = Route("/orders", cors=Cors(origins=["*"], headers=["*"]))
    headers = dict(preflight(route, "null", "x-a, x-b").headers)
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-headers"] == "x-a, x-b"


def test_credentials_for_every_origin_are_refused() -> None:
    with pytest.raises(ValueError, match="named origins"):
        Cors(origins=["*"], credentials=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Route("/a/{id}"), Route("/a/{name}")),
        (Route("/a/{id}"), Route("/a/{rest...}")),
        (Route("/a", ("GET",)), Route("/a", ("HEAD",))),
        (Route("/a", ("GET",)), Route("/a", ("POST",))),
        (Route("/a", host="Shop.example"), Route("/a", host="shop.example")),
        (Route("/a", host="shop.example"), Route("/a")),
        (Route("/a/{x}/{rest...}"), Route("/a/{y}/{all...}")),
    ],
)
def test_two_routes_claim_the_same_if_and_only_if_one_table_cannot_hold_both(one: Route, other: Route) -> None:
    table: RouteTable[int] = RouteTable()
    table.add(one, 1)
    try:
        table.add(other, 2)
    except Taken:
        clash = True
    else:
        clash = False
    assert bool(claims_of(one) & claims_of(other)) == clash


@pytest.mark.parametrize("path", ["/", "/a", "/a/{id}/b", "/{x}", "/a/{rest...}", "/{x}/{all...}", "/a//b/"])
@pytest.mark.parametrize("host", [None, "shop.example"])
@pytest.mark.parametrize("methods", [("POST",), ("GET", "POST"), METHODS])
def test_claims_name_their_route(path: str, host: str | None, methods: tuple[str, ...]) -> None:
    claims = claims_of(Route(path, methods, host))
    found = route_of_claims(claims)
    assert found is not None
    assert claims_of(found) == claims
    assert found.host == host


@pytest.mark.parametrize("claims", [[], ["group orders"], ["POST /a", "POST /b"], ["POST"], ["POST a.example"]])
def test_claims_of_no_route_name_none(claims: list[str]) -> None:
    assert route_of_claims(claims) is None


SMALL_PATHS = ["/", "/a", "/a/", "/a/b", "/{x}", "/{r...}", "/a/{x}", "/a/{r...}", "/{x}/b", "/{x}/{r...}", "/{x}/{y}"]
ROUTES = [
    Route(path, methods, host)
    for path, methods, host in product(SMALL_PATHS, (("POST",), ("GET",), ("OPTIONS", "GET")), (None, "h.example"))
]
SOME_SEGMENTS = [found for length in (1, 2, 3) for found in product(("a", "b", "c", ""), repeat=length)]
REQUESTS = list(
    product(
        ("h.example", "i.example"),
        ("POST", "GET", "HEAD", "OPTIONS"),
        ("/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/b/b"),
    )
)


def test_a_route_takes_requests_from_another_if_and_only_if_some_request_shows_it() -> None:
    """Compares the function with the table itself, for all pairs of small routes."""
    for one, other in product(ROUTES, ROUTES):
        alone: RouteTable[str] = RouteTable()
        alone.add(other, "other")
        both: RouteTable[str] = RouteTable()
        both.add(other, "other")
        try:
            both.add(one, "one")
        except Taken:
            assert takes_from(one, other)
            continue
        takes = False
        for host, method, path in REQUESTS:
            before, now = (table.match(host, method, segments_of(path)) for table in (alone, both))
            served = isinstance(before, Found) or (method == "OPTIONS" and bool(before.allow))
            takes = takes or (served and isinstance(now, Found) and now.value == "one")
        assert takes_from(one, other) == takes, (one, other)


def test_the_index_finds_exactly_the_paths_that_share_a_request() -> None:
    requests = {
        path: {segments for segments in SOME_SEGMENTS if winner(table_of(Route(path)), "/" + "/".join(segments))}
        for path in SMALL_PATHS
    }
    index: RouteIndex[str] = RouteIndex()
    routes = [Route(path) for path in SMALL_PATHS]
    for route in routes:
        index.add(route, route.path)
    for path in SMALL_PATHS:
        found = sorted(other for _, other in index.overlapping(Route(path)))
        assert found == sorted(other for other in SMALL_PATHS if requests[path] & requests[other]), path
    for route in routes:
        index.remove(route)
    assert list(index.overlapping(Route("/{all...}"))) == []


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/files/..%2fadmin", "dot segments"),
        ("/files/a%2F.%2Fb", "dot segments"),
        ("/files/..%5cadmin", "dot segments"),
        ("/files/\\..\\admin", "dot segments"),
        ("/files/..;/admin", "dot segments"),
        ("/files/%2e%2e;x", "dot segments"),
        ("/files/%zz", "encodes nothing"),
        ("/files/%", "encodes nothing"),
        ("/files/%4", "encodes nothing"),
    ],
)
def test_a_path_that_the_next_server_may_read_differently_is_refused(path: str, problem: str) -> None:
    with pytest.raises(BadTarget, match=problem):
        segments_of(path)


def test_dots_that_are_not_path_segments_are_accepted() -> None:
    assert segments_of("/a..b/...%2f.c/%252e%252e") == ["a..b", ".../.c", "%2e%2e"]


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("Shop.Example", "shop.example"),
        (" shop.example.:80 ", "shop.example"),
        ("shop.example:", "shop.example"),
        ("[::1]:8080", "[::1]"),
        ("", ""),
    ],
)
def test_the_port_and_the_final_dot_of_a_host_are_removed(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    "header",
    [
        "shop.example:80:90",
        "shop.example:port",
        "shop.example:x@evil",
        "a@shop.example",
        "a, b",
        "a/b",
        "a b",
        "[::1",
        "::1",
    ],
)
def test_an_invalid_host_is_refused(header: str) -> None:
    with pytest.raises(BadTarget, match="the Host header is not a host"):
        host_of(header)


@pytest.mark.parametrize(
    "origin",
    ["null", "shop.example", "https://shop.example/", "https://Shop.example", "https://*.example", "", "https://a b"],
)
def test_an_origin_that_no_browser_sends_or_any_page_can_send_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="an origin as a browser writes it is needed"):
        Cors(origins=["https://shop.example:8443", "http://[::1]:80", origin])


@pytest.mark.parametrize("fields", [{"headers": ["x\r\ny: z"]}, {"headers": [""]}, {"methods": ["a b"]}])
def test_values_that_no_header_can_hold_are_refused(fields: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="the name of a method or header is needed"):
        Cors(origins=["*"], **fields)


@pytest.mark.parametrize("path", ["/a/..;/b", "/a/.", "/..;x"])
def test_a_path_that_no_request_can_have_is_not_a_valid_route(path: str) -> None:
    assert "never matches" in (problem_of(path) or "")
