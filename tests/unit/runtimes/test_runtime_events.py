"""The runtime's pure parts: the event that a request carries, and the answer that a handler's result is."""

import base64
import json
from typing import Any

import pytest

from runtimes.python import server


def event(body: bytes = b"", kubeless: bool = False, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.event_from(server.Request("POST", "/a?b=c", named, body), kubeless)


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("Application/JSON; charset=utf-8", b"[1]", [1]),
        ("application/problem+json", b"1", 1),
        ("text/plain; charset=utf-8", "ü".encode(), "ü"),
        ("text/csv", b"\xff", "\N{REPLACEMENT CHARACTER}"),
        ("application/octet-stream", b"{}", b"{}"),
        ("", b"{}", b"{}"),
        ("application/json", b"", None),
    ],
)
def test_data_is_what_the_content_type_says(content_type: str, body: bytes, data: object) -> None:
    assert event(body, content_type=content_type)["data"] == data


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [("text/plain", b"x", b"x"), ("application/json", b"1", 1), ("", b"", b""), ("application/json", b"", b"")],
)
def test_a_kubeless_function_gets_bytes_for_all_but_json(content_type: str, body: bytes, data: object) -> None:
    assert event(body, kubeless=True, content_type=content_type)["data"] == data


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[" * 100_000),
        ("application/cloudevents+json", b"[]"),
        ("application/cloudevents+json", b'{"data_base64": "&"}'),
        ("application/cloudevents+json", b'{"data_base64": 5}'),
    ],
)
def test_what_claims_to_be_json_and_is_none_is_the_callers_fault(content_type: str, body: bytes) -> None:
    with pytest.raises(server.BadRequest):
        event(body, content_type=content_type)


def test_a_structured_cloudevent_is_its_data_and_its_attributes() -> None:
    envelope = {"specversion": "1.0", "id": "i", "source": "/s", "type": "t", "time": "now", "extra": "e"}
    plain = event(json.dumps({**envelope, "data": {"a": 1}}).encode(), content_type="application/cloudevents+json")
    assert plain["data"] == {"a": 1}
    assert [plain[f"event-{name}"] for name in ("id", "type", "time", "namespace")] == ["i", "t", "now", "/s"]
    assert plain["cloudevent"]["attributes"] == envelope
    coded = {**envelope, "data_base64": base64.b64encode(b"\0\1").decode()}
    found = event(json.dumps(coded).encode(), content_type="application/cloudevents+json; charset=utf-8")
    assert found["data"] == b"\0\1"


def test_a_binary_cloudevent_keeps_its_raw_bytes_and_its_attributes_unescaped() -> None:
    found = event(b'{"a": 1}', content_type="application/json", ce_id="a%20b", ce_source="/%C3%BC", ce_type="t")
    assert found["event-id"] == "a b"
    assert found["event-namespace"] == "/ü"
    assert "cloudevent" in found
    assert found.get("cloudevent") is found["cloudevent"]
    assert found["cloudevent"]["data"] == b'{"a": 1}'
    assert found["cloudevent"]["attributes"]["id"] == "a b"
    assert found["cloudevent"]["attributes"]["datacontenttype"] == "application/json"


def test_kubeless_own_headers_count_where_there_is_no_cloudevent() -> None:
    found = event(event_id="i", event_type="t", event_time="now", event_namespace="n")
    assert [found[f"event-{name}"] for name in ("id", "type", "time", "namespace")] == ["i", "t", "now", "n"]
    assert event()["event-id"] is None
    with pytest.raises(KeyError):
        event()["nothing"]


def test_a_request_is_read_by_attribute_and_by_key_and_its_headers_by_any_case() -> None:
    request = event(b"[1]", x_a="b", kubeirq_path_params='{"id": "7"}')["extensions"]["request"]
    assert request.headers["X-A"] == request["headers"].get("X-a") == "b"
    assert "X-A" in request.headers
    assert (request.method, request.path, request.query, request.body) == ("POST", "/a", {"b": "c"}, b"[1]")
    assert request.path_params == {"id": "7"}
    assert request.json == [1]
    with pytest.raises(KeyError):
        request["__class__"]


class Answer:
    def __init__(self, status_code: object, headers: object, body: object) -> None:
        self.status_code, self.headers, self.body = status_code, headers, body


@pytest.mark.parametrize(
    "result",
    [
        object(),
        5,
        ("x",),
        ("x", 200, {}, 1),
        ("x", 999),
        ("x", 100),
        ("x", True),
        ("x", "200"),
        ("x", 200, 5),
        ("x", 200, [1]),
        ("x", 200, {"a": "b\r\nc: d"}),
        ("x", 200, {"a\r\nc": "d"}),
        ("x", 200, {"a b": "d"}),
        ("x", 200, {"a:b": "d"}),
        ("x", 200, {"": "d"}),
        ("x", 200, {"a": "\0"}),
        ("x", 200, {"ü": "d"}),
        {"a": object()},
        [float("nan")] * 0 + [{1, 2}],
        Answer("x", {}, b""),
        Answer(200, {"a": "\n"}, b""),
    ],
)
def test_what_is_no_answer_is_refused(result: object) -> None:
    with pytest.raises(server.BadAnswer):
        server.answer_from(result)


def test_a_structure_that_holds_itself_is_no_answer() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(server.BadAnswer):
        server.answer_from(endless)


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (None, (204, b"")),
        ((None, 202), (202, b"")),
        (b"x", (200, b"x")),
        (bytearray(b"x"), (200, b"x")),
        ("ü", (200, "ü".encode())),
        ({"a": [1, None]}, (200, b'{"a":[1,null]}')),
        ({1: 2}, (200, b'{"1":2}')),
        ([], (200, b"[]")),
        (("x", 404), (404, b"x")),
        (Answer(418, None, "x"), (418, b"x")),
    ],
)
def test_every_shape_of_an_answer(result: object, answer: tuple[int, bytes]) -> None:
    status, _, _, body = server.answer_from(result)
    assert (status, body) == answer


def test_nothing_is_no_content_but_for_kubeless() -> None:
    assert server.answer_from(None, kubeless=True)[0] == 200


@pytest.mark.parametrize(
    ("quantity", "count"),
    [("0", 0), ("1000", 1000), ("128Mi", 128 * 2**20), ("1.5Gi", 3 * 2**29), ("1G", 10**9), ("64k", 64_000)],
)
def test_quantities_are_those_of_kubernetes(quantity: str, count: int) -> None:
    assert server.bytes_of(quantity) == count


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FUNC_TIMEOUT", "soon"),
        ("FUNC_TIMEOUT", "0"),
        ("FUNC_TIMEOUT", "-1"),
        ("FUNC_TIMEOUT", "nan"),
        ("FUNC_PORT", "x"),
        ("FUNC_MEMORY_LIMIT", "much"),
        ("FUNC_CONCURRENCY", "-1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        server.Settings({"MOD_NAME": "f", name: text})


def test_a_function_without_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match="MOD_NAME"):
        server.Settings({"FUNC_HANDLER": "handler"})
    assert server.Settings({"FUNC_HANDLER": "a.b.handler"}).module == "a.b"
