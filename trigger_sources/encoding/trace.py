"""W3C trace context in the headers of a message. Pure."""

from collections.abc import Iterable, Mapping


def trace_of(headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The trace context in the headers, as attributes; names are lower-case.

    The fields of `tracestate` are one list. Two `traceparent` headers name no trace: the next program starts one.
    """
    parents, states = [], []
    for name, value in headers:
        if name == "traceparent":
            parents.append(value)
        elif name == "tracestate":
            states.append(value)
    if len(parents) != 1 or not _is_clean(parents[0]):
        return {}
    state = ",".join(state for state in states if state.strip())
    return {"traceparent": parents[0], **({"tracestate": state} if state and _is_clean(state) else {})}


def _is_clean(value: str) -> bool:
    return value.isascii() and value.isprintable()
