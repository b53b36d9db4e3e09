"""Dead letters as a person reads them."""

import base64

from kubeirq.output.letter_text import readable_lane, readable_letter


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_texts_and_times_of_a_letter_are_readable() -> None:
    letter = {
        "failedAt": 1_767_225_600.25,
        "key": encoded(b"customer-7"),
        "headers": [["traceparent", encoded(b"00-1")], ["raw", encoded(b"\xff\xfe")]],
        "attempts": [{"at": 1_767_225_600.0, "status": 500, "error": "KeyError", "answerHead": encoded(b"no\n")}],
        "message": "status 500",
    }
    assert readable_letter(letter) == {
        "failedAt": "2026-01-01T00:00:00.250Z",
        "key": "customer-7",
        "headers": [["traceparent", "00-1"], ["raw", {"base64": "//4="}]],
        "attempts": [{"at": "2026-01-01T00:00:00.000Z", "status": 500, "error": "KeyError", "answerHead": "no\n"}],
        "message": "status 500",
    }


def test_a_summary_has_its_count_of_attempts() -> None:
    assert readable_letter({"failedAt": 0, "key": None, "attempts": 3}) == {
        "failedAt": "1970-01-01T00:00:00.000Z", "key": None, "attempts": 3,
    }  # fmt: skip


def test_the_key_of_a_lane_is_text() -> None:
    assert readable_lane({"since": 0, "key": encoded("größe".encode())})["key"] == "größe"
