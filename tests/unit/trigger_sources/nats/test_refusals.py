"""The words for refusals of JetStream."""

import pytest

from trigger_sources.nats.refusals import _BY_TEXT, _WAYS_OUT, stream_in, way_out, words


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("CONSUMER.CREATE.S.c", "S"),
        ("CONSUMER.CREATE.S.c.a.b", "S"),
        ("CONSUMER.DURABLE.CREATE.S.c", "S"),
        ("CONSUMER.MSG.NEXT.S.c", "S"),
        ("STREAM.INFO.S", "S"),
        ("STREAM.MSG.GET.S", "S"),
        ("STREAM.NAMES", ""),
        ("INFO", ""),
        ("", ""),
    ],
)
def test_a_request_names_its_stream(path: str, stream: str) -> None:
    assert stream_in(path) == stream


def test_every_way_out_is_whole() -> None:
    for text in [*(way_out(code, "", "S") for code in _WAYS_OUT), *(way_out(0, part, "S") for part, _ in _BY_TEXT)]:
        assert text
        assert text[0].islower() or text[0] == "`"
        assert not text.endswith(".")
        assert "{stream}" not in text
        assert text.count("`") % 2 == 0


def test_an_error_without_advice_keeps_the_words_of_the_server() -> None:
    assert words({"err_code": 10059, "description": "stream not found"}, "STREAM.INFO.S") == "stream not found"
    assert words({"odd": 1}, "") == "{'odd': 1}"
    assert words(
        {"err_code": 10012, "description": "can not update push consumer to pull based"}, "CONSUMER.CREATE.S.c"
    ) == (
        "stream S: can not update push consumer to pull based: the consumer pushes its messages, and a trigger asks for"
        " them: choose another spec.durable, or delete the consumer (`nats consumer rm S NAME`), which makes it anew"
    )
