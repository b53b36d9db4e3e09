"""Says why a call failed, in words of the function's own answer. Pure; runs only for answers that are failures."""

from trigger_sources.delivery import Answer
from trigger_sources.encoding.content import media_of

HEADER = "kubeirq-error"  # of the answer of a runtime: the reason in one line
MOST_CHARACTERS = 512
_LOOKED_AT_BYTES = 2_048


def failure_text(status: int | None, reason: str) -> str:
    """The status and the reason in one line: `status 500: KeyError: 'kind' (orders.py:12 in handler)`."""
    if status is None:
        return reason
    return f"status {status}: {reason}" if reason else f"status {status}"


def reason_of(answer: Answer) -> str:
    """The runtime's reason, or else the first line of a body that is text; empty where there is neither."""
    return one_line(answer.header(HEADER) or _first_line(answer))


def one_line(text: str) -> str:
    """The text without line ends and control characters, cut to MOST_CHARACTERS."""
    words = " ".join(text[: 2 * MOST_CHARACTERS].split())
    line = (
        words if words.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    )
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…"


def _first_line(answer: Answer) -> str:
    media = media_of(answer.header("content-type"))
    if not answer.body or answer.header("content-encoding") or not _is_text(media):
        return ""
    head = answer.body[:_LOOKED_AT_BYTES].decode(errors="replace").strip()
    # A page for a browser says nothing in its first line, and JSON may have its lines in any place
    return "" if head.startswith("<") else head if media.endswith("json") else head.partition("\n")[0]


def _is_text(media: str) -> bool:
    return media in ("", "application/problem+json") or media.startswith("text/") or media.endswith(("/json", "+json"))
