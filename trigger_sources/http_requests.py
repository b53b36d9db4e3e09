"""The HTTP requests that a source gets from its context, and the route that it serves. Part of the plugin API."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field, field_validator, model_validator

from trigger_sources.delivery import Answer
from trigger_sources.spec import Spec

ORIGIN = r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s:/?#@*,A-Z\[\]]+)(:\d+)?"
ORIGIN_RULE = (
    "an origin as a browser writes it is needed, https://shop.example or http://shop.example:8080, or * for all"
)
BODY_LIMIT_BYTES = 1024 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

Headers = Sequence[tuple[str, str]]


class Cors(Spec):
    """The rights of pages of other origins."""

    origins: list[str] = Field(min_length=1, description="The origins, each as https://shop.example; * for all")
    methods: list[str] = Field(
        default_factory=list, description="The methods that a page may use; unset: the trigger's own"
    )
    headers: list[str] = Field(default_factory=list, description="The headers that a page may send; * for all")
    max_age_seconds: int = Field(600, ge=0, le=86_400, description="The time that a browser may remember this")
    credentials: bool = Field(False, description="Whether cookies and credentials may be sent")

    @model_validator(mode="after")
    def _credentials_need_names(self) -> "Cors":
        if self.credentials and "*" in self.origins:
            raise ValueError("origins: credentials are allowed to named origins only, not to *")
        return self

    @field_validator("methods", "headers")
    @classmethod
    def _are_tokens(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r}: the name of a method or header is needed, without blanks")
        return names

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(ORIGIN, origin):
                raise ValueError(f"{origin!r}: {ORIGIN_RULE}")
        return origins


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The requests that a trigger serves.

    `path` consists of literal segments, `{name}` for one segment and, at the end, `{name...}` for all that follow.
    `admit(headers)` runs before the body is read, with the first value of each lower-case header. None admits the
    request; an Answer is sent to the caller instead.
    """

    path: str
    methods: Sequence[str] = ("POST",)
    host: str | None = None  # None: every host
    cors: Cors | None = None
    body_limit_bytes: int = BODY_LIMIT_BYTES
    trigger: str = ""  # the trigger's name, for messages
    admit: Callable[[Mapping[str, str]], Answer | None] | None = None

    @property
    def served(self) -> frozenset[str]:
        """The methods that it serves; a route that serves GET serves HEAD too."""
        return frozenset(self.methods) | ({"HEAD"} if "GET" in self.methods else frozenset())


class IncomingRequest(Protocol):
    """A request whose caller waits for `answer`.

    Header names are lower-case; `target` is the path with its query, as sent.
    """

    method: str
    path: str
    target: str
    query: str
    headers: Headers
    body: bytes
    path_parameters: Mapping[str, str]
    remote: str | None  # the peer's address
    gone: bool  # answered, or the caller has left
    on_left: Callable[[], None] | None  # called when the caller leaves before it is answered

    def answer(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answers the caller. The first answer counts; one for a caller that has left has no effect."""

    def refuse(self, why: str) -> None:
        """Answers 503 with Retry-After."""


class Requests(Protocol):
    """The requests of one route that its trigger has not taken yet."""

    async def next(self, limit: int, timeout_seconds: float | None = None) -> Sequence[IncomingRequest]:
        """The oldest requests, at most `limit`, which the caller must answer. Empty: none came in time, or `wake`.

        Thousands of triggers may wait at once: without a time limit, those without requests cost no time.
        """

    def wake(self) -> None:
        """Ends a `next` that waits, for example because the trigger stops."""
