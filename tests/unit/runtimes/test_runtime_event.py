"""The event that a request carries."""

import base64
import json
from typing import Any

import pytest

from runtimes.python.kubeirq_runtime.event import BadRequest, event_from
from runtimes.python.kubeirq_runtime.request import Request


def event(body: bytes = b"", kubeless: bool = False, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return event_from(Request("POST", "/a?b=c", named, body), kubeless)


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
def test_a_body_that_is_not_the_json_that_it_claims_to_be_is_the_callers_fault(content_type: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
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
