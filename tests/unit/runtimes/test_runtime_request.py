"""The HTTP request as a handler sees it."""

import pytest

from runtimes.python.kubeirq_runtime.request import Request


def test_a_request_is_read_by_attribute_and_by_key_and_its_headers_by_any_case() -> None:
    request = Request("POST", "/a?b=c", {"x-a": "b", "kubeirq-path-params": '{"id": "7"}'}, b"[1]")
    assert request.headers["X-A"] == request["headers"].get("X-a") == "b"
    assert "X-A" in request.headers
    assert (request.method, request.path, request.query, request.body) == ("POST", "/a", {"b": "c"}, b"[1]")
    assert request.path_params == {"id": "7"}
    assert request.json == [1]
    with pytest.raises(KeyError):
        request["__class__"]


def test_the_last_value_of_a_name_in_the_query_counts() -> None:
    assert Request("GET", "/?a=1&a=2&b=", {}, b"").query == {"a": "2", "b": ""}
