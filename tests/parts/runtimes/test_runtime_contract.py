"""The event that a handler gets, and the answers that it may give."""

import asyncio
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers.function import Function, function


async def call(
    found: Function, data: bytes | None = b"{}", method: str = "POST", path: str = "", **headers: str
) -> Any:
    async with aiohttp.ClientSession(skip_auto_headers=["content-type"]) as session:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.request(method, found.url + path, data=data, headers=names) as answer:
            return answer.status, dict(answer.headers), await answer.read()


SEEN = """
def handler(event, context):
    request = event["extensions"]["request"]
    return {
        "data": event["data"] if not isinstance(event["data"], bytes) else ["bytes", event["data"].hex()],
        "ids": [event["event-id"], event["event-type"], event["event-time"], event["event-namespace"]],
        "request": [request.method, request.path, request.query, request.path_params],
        "cloudevent": event["cloudevent"]["attributes"],
        "context": [context["attempt"], context["function-name"], context["timeout"], context["deadline"] > 0],
    }
"""


async def test_a_cloudevent_in_binary_mode() -> None:
    import json

    async with function(SEEN) as found:
        status, _, body = await call(
            found, b'{"a": 1}', path="orders/7?x=1", content_type="application/json; charset=utf-8",
            ce_specversion="1.0", ce_id="a%20b", ce_type="t", ce_source="/s", ce_time="2026-01-01T00:00:00Z",
            kubeirq_attempt="3", kubeirq_path_params='{"id": "7"}',
        )  # fmt: skip
        seen = json.loads(body)
        assert status == 200
        assert seen["data"] == {"a": 1}
        assert seen["ids"] == ["a b", "t", "2026-01-01T00:00:00Z", "/s"]
        assert seen["request"] == ["POST", "/orders/7", {"x": "1"}, {"id": "7"}]
        assert seen["cloudevent"]["id"] == "a b"
        assert seen["context"][0] == 3


async def test_a_cloudevent_in_structured_mode_and_kubeless_headers() -> None:
    import json

    async with function(SEEN) as found:
        envelope = b'{"specversion": "1.0", "id": "i", "source": "/s", "type": "t", "data_base64": "AAE="}'
        _, _, body = await call(found, envelope, content_type="application/cloudevents+json")
        seen = json.loads(body)
        assert seen["data"] == ["bytes", "0001"]
        assert seen["ids"] == ["i", "t", None, "/s"]
        _, _, body = await call(found, b"text", content_type="text/plain", event_id="k", event_type="et")
        seen = json.loads(body)
        assert seen["data"] == "text"
        assert seen["ids"][:2] == ["k", "et"]


@pytest.mark.parametrize(
    ("result", "status", "body"),
    [
        ("'text'", 200, b"text"),
        ("b'bytes'", 200, b"bytes"),
        ("{'a': 1}", 200, b'{"a":1}'),
        ("[1]", 200, b"[1]"),
        ("None", 204, b""),
        ("('made', 201)", 201, b"made"),
        ("('made', 201, {'x-a': 'b'})", 201, b"made"),
        ("(None, 202)", 202, b""),
        ("Answer()", 203, b"object"),
        ("(part for part in ('a', 'b'))", 200, b"ab"),
    ],
)
async def test_every_shape_of_an_answer(result: str, status: int, body: bytes) -> None:
    source = f"""
class Answer:
    status_code, headers, body = 203, {{"x-a": "b"}}, b"object"
def handler(event, context):
    return {result}
"""
    async with function(source) as found:
        answer = await call(found)
        assert (answer[0], answer[2]) == (status, body)
        if "x-a" in source.partition("return")[2]:
            assert answer[1]["x-a"] == "b"


async def test_an_async_generator_streams_and_a_failure_in_the_middle_cuts_the_answer_off() -> None:
    source = """
import asyncio
async def handler(event, context):
    yield "first"
    await asyncio.sleep(0)
    if event["data"]:
        raise ValueError("in the middle")
    yield "second"
"""
    async with function(source) as found:
        assert (await call(found, b""))[2] == b"firstsecond"
        with pytest.raises(aiohttp.ClientPayloadError):
            await call(found, b"1", content_type="application/json")
        assert (await call(found, b""))[2] == b"firstsecond"


async def test_metrics_are_read_back() -> None:
    async with function("def handler(event, context):\n    return 1 / event['data']") as found:
        await call(found, b"0", content_type="application/json")
        await call(found, b"[]", method="BREW", content_type="application/json")
        _, _, text = await call(found, None, method="GET", path="metrics")
        samples = {
            (sample.name, sample.labels.get("method")): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if "bucket" not in sample.name
        }
        assert samples["function_failures_total", "POST"] == 1
        assert samples["function_duration_seconds_count", "POST"] == 1


HOSTILE = [
    (b"GARBAGE\r\n\r\n", b" 400 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b" 400 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", b" 400 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n", b" 413 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\nlarge: " + b"a" * 70_000 + b"\r\n\r\n", b" 431 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n", b" 400 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{", b" 400 "),
    (b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n", b" 100 "),
]


@pytest.mark.parametrize(("request_", "status"), HOSTILE)
async def test_hostile_requests_are_refused_and_the_next_is_answered(request_: bytes, status: bytes) -> None:
    async with function("def handler(event, context):\n    return 'ok'") as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        writer.write(request_)
        assert status in await reader.readline()
        writer.close()
        assert (await call(found, b""))[2] == b"ok"


async def test_pipelined_requests_are_answered_in_order() -> None:
    source = """
import asyncio
async def handler(event, context):
    await asyncio.sleep(0.05 if event["data"] == 0 else 0)
    return str(event["data"])
"""
    async with function(source) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n%d"
        writer.write(b"".join(one % number for number in range(9)))
        text = b""
        while text.count(b"HTTP/1.1 200") < 9 or not text.endswith(b"8"):
            text += await reader.read(65_536)
        assert [part[-1:] for part in text.split(b"HTTP/1.1 200 OK")[1:]] == [b"%d" % n for n in range(9)]
        writer.close()
