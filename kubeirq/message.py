"""The request or event that a person sends."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

MOST_PUBLISHED = 100_000  # events by one `kubeirq publish`

_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


@dataclass(frozen=True)
class Message:
    """The request or event that `call` and `publish` send. Names of headers and attributes are lower-case."""

    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)  # of a CloudEvent, without the prefix ce-
    key: str | None = None
    subject: str | None = None  # for a trigger whose subject has wildcards
    path: str | None = None  # for a trigger whose path has parameters

    def event_headers(self, purpose: str, prefix: str = "ce-") -> dict[str, str]:
        """The CloudEvent's headers in binary mode, with defaults for the attributes that every event needs."""
        needed = {
            "specversion": "1.0", "id": str(uuid.uuid4()), "type": f"dev.kubeirq.{purpose}",
            "source": f"/kubeirq/{purpose}", "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }  # fmt: skip
        attributes = {**needed, **self.attributes}
        if prefix == "ce-":  # the bindings for HTTP and NATS encode what is not printable ASCII
            attributes = {name: quote(value, safe=_PRINTABLE) for name, value in attributes.items()}
        return {f"{prefix}{name}": value for name, value in attributes.items()}
