"""Requests become events, outcomes become answers, and callers are authenticated."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.delivery import Answer, HttpRequest, Outcome
from trigger_sources.events import Event, InvalidEvent
from trigger_sources.http.answers import answer_to
from trigger_sources.http.auth import credentials, users_of
from trigger_sources.http.events import UnknownFormat, events_of, forwarded, from_record, record_from
from trigger_sources.http.source import BasicAuth, HTTPTrigger


def events(headers: list[tuple[str, str]], body: bytes = b"") -> list[Event]:
    return events_of(headers, body, subject="/orders/7", source="/http/default/orders", id="new", time="T")


def test_a_plain_request_becomes_an_event() -> None:
    (event,) = events(
        [("content-type", "text/plain"), ("traceparent", "00-a-b-01"), ("ce-partitionkey", "k"), ("x", "y")], b"hi"
    )
    assert event == Event(
        id="new",
        source="/http/default/orders",
        type="dev.kubeirq.http.request",
        data=b"hi",
        datacontenttype="text/plain",
        subject="/orders/7",
        time="T",
        extensions={"traceparent": "00-a-b-01", "partitionkey": "k"},
    )


def test_a_cloudevent_stays_the_same_event_in_all_modes() -> None:
    expected = Event(id="1", source="/s", type="t", data=b'{"a":1}', datacontenttype="application/json")
    binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")]
    assert events([*binary, ("content-type", "application/json")], b'{"a":1}') == [expected]
    envelope = (
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data":{"a":1}}'
    )
    assert events([("content-type", "application/cloudevents+json; charset=utf-8")], envelope) == [expected]
    batch = b"[" + envelope + b"," + envelope + b"]"
    assert events([("content-type", "application/cloudevents-batch+json")], batch) == [expected, expected]
    assert events([("content-type", "application/cloudevents-batch+json")], b"[]") == []


@pytest.mark.parametrize(
    ("headers", "body", "named"),
    [
        ([("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")], b"", "type: "),
        ([("ce-specversion", "0.3"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")], b"", "specversion: "),
        ([("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-id", "2")], b"", "ce-id: given twice"),
        ([("content-type", "application/cloudevents+json")], b"{", "not JSON"),
        ([("content-type", "application/cloudevents-batch+json")], b'[{"specversion":"1.0"}]', r"\[0\]\.id: "),
        ([("content-type", "a/b"), ("content-type", "c/d")], b"", "content-type: given twice"),
    ],
)
def test_an_invalid_cloudevent_is_refused_with_the_reason(
    headers: list[tuple[str, str]], body: bytes, named: str
) -> None:
    with pytest.raises(InvalidEvent, match=named):
        events(headers, body)


def test_an_unknown_event_format_has_its_own_error() -> None:
    with pytest.raises(UnknownFormat, match=r"application/cloudevents\+avro is not known"):
        events([("content-type", "application/cloudevents+avro")])


def test_hop_by_hop_headers_are_not_passed_on() -> None:
    headers = [
        ("host", "shop.example"), ("connection", "keep-alive, X-Mine"), ("x-mine", "1"), ("keep-alive", "1"),
        ("transfer-encoding", "chunked"), ("te", "trailers"), ("expect", "100-continue"), ("content-length", "3"),
        ("authorization", "Bearer secret"), ("x-forwarded-for", "10.0.0.1"), ("x-kept", "a"), ("x-kept", "b"),
    ]  # fmt: skip
    found = forwarded("HEAD", "/a?b", headers, {"id": "7"}, remote="10.0.0.2", with_authorization=False)
    assert found == HttpRequest(
        "GET",
        "/a?b",
        (
            ("x-kept", "a"),
            ("x-kept", "b"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
            ("x-forwarded-host", "shop.example"),
        ),
        {"id": "7"},
    )
    kept = forwarded("PUT", "/", headers, {}, remote=None, with_authorization=True).headers
    assert ("authorization", "Bearer secret") in kept


@given(
    data=st.one_of(st.none(), st.binary()),
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    headers=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.text(st.characters(exclude_categories=["Cs"])))),
)
def test_an_accepted_event_survives_the_round_trip_through_its_record(
    data: bytes | None, text: str, headers: list[tuple[str, str]]
) -> None:
    event = Event(id=text, source="/s", type="t", data=data, subject=text, extensions={"partitionkey": text})
    request = HttpRequest("PUT", "/a?b", tuple(headers), {"id": text})
    assert from_record(record_from(event, request)) == (event, request)


@pytest.mark.parametrize("record", [b"", b"{}\n", b'{"version":2}\n', b"[]\n", b"\xff"])
def test_an_invalid_record_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_record(record)


ANSWER = Answer(422, (("content-type", "text/plain"), ("connection", "x-hop"), ("x-hop", "1"), ("x-own", "2")), b"no")


@pytest.mark.parametrize(
    ("outcome", "status", "retry_after"),
    [
        (Outcome("delivered", answer=Answer(204)), 204, None),
        (Outcome("dropped", "PermanentAnswer", ANSWER), 422, None),
        (Outcome("dropped", "AttemptsExhausted", Answer(500, (("retry-after", "9"),))), 500, "9"),
        (Outcome("deadLettered", "AttemptsExhausted", Answer(503)), 503, None),
        (Outcome("dropped", "FunctionDown"), 503, "5"),
        (Outcome("dropped", "Held"), 503, "5"),
        (Outcome("returned", "Stopping"), 503, "1"),
        (Outcome("dropped", "Timeout"), 504, None),
        (Outcome("dropped", "NoAnswer"), 502, None),
        (Outcome("dropped", "AttemptsExhausted"), 502, None),
        (Outcome("dropped", "PermanentAnswer"), 502, None),
        (Outcome("filtered", "Filtered"), 204, None),
        (Outcome("dropped", "FilterError"), 500, None),
        (Outcome("dropped", "ReplyFailed"), 502, None),
        (Outcome("dropped", "ReplyFailed", Answer(200)), 502, None),
        (Outcome("deadLettered", "InvalidEvent"), 400, None),
        (Outcome("dropped", "SomethingNew"), 500, None),
        (Outcome("delivered", answer=Answer(101)), 502, None),
    ],
)
def test_every_outcome_has_its_answer(outcome: Outcome, status: int, retry_after: str | None) -> None:
    answer = answer_to(outcome)
    assert answer.status == status
    assert answer.header("retry-after") == retry_after


def test_the_reason_of_a_failure_is_not_passed_on_to_the_caller() -> None:
    failed = Answer(500, [("kubeirq-error", "KeyError: 'password'"), ("x-own", "2")], b"the handler failed\n")
    assert answer_to(Outcome("dropped", "AttemptsExhausted", failed)).headers == [("x-own", "2")]


def test_the_functions_answer_is_passed_on_without_hop_by_hop_headers() -> None:
    answer = answer_to(Outcome("dropped", "PermanentAnswer", ANSWER))
    assert answer == Answer(422, [("content-type", "text/plain"), ("x-own", "2")], b"no")


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_only_complete_credentials_are_accepted() -> None:
    accepted = credentials([("ann", "s3cret:x"), ("bob", "pass")], ["token-1", "token-2"])
    assert accepted.admit(basic("ann:s3cret:x")) is None
    assert accepted.admit(basic("bob:pass")) is None
    assert accepted.admit({"authorization": "bearer token-2"}) is None
    for refused in (
        {},
        basic("ann:s3cret"),
        basic("ann:"),
        basic("bob:s3cret:x"),
        {"authorization": "Basic !!!"},
        {"authorization": "Basic ann:s3cret:x"},
        {"authorization": "Bearer bob:pass"},
        {"authorization": "Bearer token-"},
        {"authorization": "Bearer"},
        {"authorization": "Digest token-1"},
        {"authorization": "Bearer tökén"},
    ):
        answer = accepted.admit(refused)
        assert answer is not None
        assert answer.status == 401
        assert [value for name, value in answer.headers if name == "www-authenticate"] == [
            'Basic realm="kubeirq", charset="UTF-8"',
            'Bearer realm="kubeirq"',
        ]


def test_users_are_read_from_lines_and_errors_do_not_contain_secrets() -> None:
    assert users_of("# people\nann:a:b\n\nbob:c\n") == [("ann", "a:b"), ("bob", "c")]
    for text, problem in (
        ("ann", "line 1"),
        ("a:b\nann:$apr1$secret$x", "line 2: a hashed"),
        ("\n", "no line name:password"),
    ):
        with pytest.raises(ValueError, match=problem) as refused:
            users_of(text)
        assert "secret" not in str(refused.value)


def test_one_attempt_is_made_while_a_caller_waits_unless_the_spec_asks_for_more() -> None:
    def attempts(**spec: object) -> int | None:
        return HTTPTrigger.model_validate({"function": "f", **spec}).delivery.attempts

    assert attempts() == 1
    assert attempts(delivery={"timeoutSeconds": 5}) == 1
    assert attempts(delivery={"attempts": 3}) == 3
    assert attempts(answer="accepted") is None


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"methods": ["post"]}, "upper case: POST"),
        ({"methods": ["BREW"]}, "methods"),
        ({"methods": []}, "methods"),
        ({"path": "orders"}, "begins with /"),
        ({"host": "https://shop.example"}, "without scheme"),
        ({"auth": {}}, "basic, bearer"),
        ({"auth": {"basic": {"username": "a"}}}, "username and password, or users"),
        ({"auth": {"bearer": {"tokens": []}}}, "tokens"),
        ({"cors": {"origins": ["*"], "credentials": True}}, "named origins"),
        ({"answer": "later"}, "answer"),
        ({"pfad": "/"}, "pfad"),
    ],
)
def test_an_invalid_spec_is_refused_with_the_field(spec: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HTTPTrigger.model_validate({"function": "f", **spec})


def test_a_user_name_that_basic_auth_cannot_send_is_refused() -> None:
    with pytest.raises(ValueError, match="a name cannot contain :"):
        BasicAuth.model_validate({"username": "a:b", "password": {"name": "s", "key": "k"}})
