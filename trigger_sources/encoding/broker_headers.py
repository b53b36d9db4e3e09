"""The headers of a broker's message as attributes of its event. Pure."""

from collections.abc import Sequence

import orjson


def header_extensions(source: str, headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """Each header as `<source>header<name>`, with the letters and digits of its name in lower case.

    A value that is not UTF-8 is `<source>header<name>hex`. Where that keeps less than the message has, because two
    headers would be one attribute or a name has no such letters, `<source>headersjson` is the list of all headers:
    `{"name": …, "value": …}`, or `hex` in place of `value`.
    """
    found: dict[str, str] = {}
    complete = True
    for name, value in headers:
        plain = "".join(c for c in name.lower() if c.isascii() and c.isalnum())
        attribute = f"{source}header{plain}"
        try:
            text = value.decode()
        except UnicodeDecodeError:
            attribute, text = f"{attribute}hex", value.hex()
        complete = complete and bool(plain) and attribute not in found
        found[attribute] = text
    if not complete:
        found[f"{source}headersjson"] = orjson.dumps([_whole(name, value) for name, value in headers]).decode()
    return found


def _whole(name: str, value: bytes) -> dict[str, str]:
    name = name.encode(errors="replace").decode()
    try:
        return {"name": name, "value": value.decode()}
    except UnicodeDecodeError:
        return {"name": name, "hex": value.hex()}
