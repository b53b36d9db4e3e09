"""The answer that a handler's result stands for."""

import pytest

from runtimes.python.kubeirq_runtime.answer import BadAnswer, answer_from


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
def test_a_result_that_is_not_an_answer_is_refused(result: object) -> None:
    with pytest.raises(BadAnswer):
        answer_from(result)


def test_a_structure_that_holds_itself_is_no_answer() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(BadAnswer):
        answer_from(endless)


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
    status, _, _, body = answer_from(result)
    assert (status, body) == answer


def test_nothing_is_no_content_but_for_kubeless() -> None:
    assert answer_from(None, kubeless=True)[0] == 200


def test_a_header_may_have_the_bytes_of_a_header_that_came_in_and_no_other_surrogate() -> None:
    assert answer_from(("x", 200, {"a": "é\udce9"}))[1] == [("a", "é\udce9")]
    with pytest.raises(BadAnswer, match="a character that would break the answer"):
        answer_from(("x", 200, {"a": "\ud800"}))
