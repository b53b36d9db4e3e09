"""Parts of specs that several resources share. Pure."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

FUNCTION_NAME = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"  # RFC 1035: it is the name of a Service, and the host of an address
FUNCTION_NAME_RULE = "a Function's name is lower-case letters, digits and -, a letter first, at most 63"
HOST = r"(\[[0-9a-fA-F:.]+\]|[^:/@\s\[\]]+)"
BROKER = rf"{HOST}:\d{{1,5}}"
SERVER = rf"((nats|tls|ws|wss)://)?{HOST}(:\d{{1,5}})?/?"
BROKER_RULE = "host:port each is needed, as kafka:9092"
SERVER_RULE = (
    "host or host:port each is needed, as nats://nats:4222: nats://, tls://, ws:// or wss:// before it, or none"
)


class Spec(BaseModel):
    """A part of a resource: frozen, spelled in camelCase, and an unknown field is an error."""

    # A validator is built with its first use: most models are only parts of others, which have validators of their own
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, defer_build=True
    )


class SecretRef(Spec):
    """One key of a Secret in the trigger's namespace. Resolved at the edge, never logged."""

    name: str = Field(min_length=1, description="The Secret's name")
    key: str = Field(min_length=1, description="A key of that Secret")


class LabelSelector(Spec):
    """Functions by their labels, as Kubernetes selects."""

    match_labels: dict[str, str] = Field(default_factory=dict, description="A Function must have all of these labels")

    @model_validator(mode="after")
    def _not_empty(self) -> "LabelSelector":
        if not self.match_labels:
            raise ValueError("matchLabels: at least one label is needed; an empty selector would select every function")
        return self

    def matches(self, labels: dict[str, str]) -> bool:
        return all(labels.get(name) == value for name, value in self.match_labels.items())


class Target(Spec):
    """The target of a trigger's calls: exactly one of these."""

    function: str | None = Field(None, min_length=1, description="The name of a Function in the same namespace")
    selector: LabelSelector | None = Field(
        None, description="Every Function with these labels; the trigger keeps its progress for each of them"
    )
    url: str | None = Field(
        None, pattern=r"^https?://", description="A plain HTTP address, of a service that is not a Function"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Target":
        given = [name for name in ("function", "selector", "url") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of function, selector, url is needed; given: {', '.join(given) or 'none'}")
        return self

    @field_validator("function")
    @classmethod
    def _is_a_name(cls, function: str | None) -> str | None:
        if function is not None and (problem := problem_of_name(function)):
            raise ValueError(problem)
        return function

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None and (problem := problem_of_url(url)):
            raise ValueError(problem)
        return url


def start_time(text: str, others: str) -> datetime:
    """The RFC 3339 time at which a trigger starts. Raises ValueError; `others` are the other values of the field."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither {others} nor an RFC 3339 time") from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; end it with Z or an offset")
    return found


def problem_of_name(function: str) -> str | None:
    """The reason why a Function cannot have that name; None if it can."""
    return None if re.fullmatch(FUNCTION_NAME, function) else f"{function!r}: {FUNCTION_NAME_RULE}"


def _addresses(form: str, rule: str) -> Callable[[list[str]], list[str]]:
    """A check of a list of addresses. Its error text does not repeat an address that has a password in it."""

    def check(addresses: list[str]) -> list[str]:
        for address in addresses:
            if "@" in address:
                raise ValueError(
                    "an address with a name or password in it is shown in conditions and logs: use security"
                )
            port = re.search(r":(\d+)/?$", address)
            if not re.fullmatch(form, address) or (port is not None and not 0 < int(port[1]) < 65_536):
                raise ValueError(f"{address!r}: {rule}")
        return addresses

    return check


Brokers = Annotated[list[str], AfterValidator(_addresses(BROKER, BROKER_RULE))]
Servers = Annotated[list[str], AfterValidator(_addresses(SERVER, SERVER_RULE))]


def problem_of_url(url: str) -> str | None:
    """The reason why the address cannot be called; None if it can."""
    if any(character.isspace() or not character.isprintable() for character in url):
        return "an address has no blanks; percent-encode them"
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return f"{url!r}: it names no host, as http://host:8080/path does"
    except ValueError as error:
        return f"not an address: {error}"
    if parts.username is not None or parts.password is not None:
        return "an address with a name or password in it is shown in conditions, metrics and logs; leave them out"
    return None


class DeadLetterPlace(Spec):
    """The place of dead letters. Unset: next to the source, under a name made from the trigger's."""

    name: str | None = Field(
        None, min_length=1, description="The topic or stream that keeps them; unset: a name made from the trigger's"
    )


class DeliveryPolicy(Spec):
    """The number and pace of attempts, and the treatment of an event after the last one."""

    timeout_seconds: float = Field(30, gt=0, le=86_400, description="The longest time that one call may take")
    attempts: int | None = Field(
        None, ge=1, le=1_000_000, description="The most attempts for one event; unset: only maxAgeSeconds limits them"
    )
    backoff_seconds: float = Field(
        0.5,
        gt=0,
        le=3_600,
        description="The bound of the first delay. A delay is random between 0 and its bound, which doubles each time",
    )
    backoff_max_seconds: float = Field(60, gt=0, le=86_400, description="The largest bound that a delay can have")
    max_age_seconds: float | None = Field(
        3_600, gt=0, description="No attempt begins later than this after the first one; null: no limit"
    )
    on_failure: Literal["deadLetter", "park", "drop"] = Field(
        "deadLetter",
        description="The end of an event that cannot be delivered: deadLetter writes a dead letter, park keeps the"
        " event and holds its key until a person acts, drop forgets it",
    )
    dead_letter: DeadLetterPlace = Field(
        default_factory=DeadLetterPlace, description="The place of the trigger's dead letters"
    )
    hold_after: int | None = Field(
        20,
        ge=1,
        description="The trigger holds after this many final failures in a row; null: never",
    )

    @model_validator(mode="after")
    def _delays_fit(self) -> "DeliveryPolicy":
        if self.backoff_max_seconds < self.backoff_seconds:
            raise ValueError("backoffMaxSeconds: must not be less than backoffSeconds")
        return self


Place = tuple[str | int, ...]


def secret_refs(model: BaseModel) -> Iterator[tuple[Place, SecretRef]]:
    """Every SecretRef in a spec, with its place as in YAML."""
    for name, info in type(model).model_fields.items():
        yield from _secret_refs_in(getattr(model, name), (info.alias or name,))


def _secret_refs_in(value: Any, place: Place) -> Iterator[tuple[Place, SecretRef]]:
    if isinstance(value, SecretRef):
        yield place, value
    elif isinstance(value, BaseModel):
        yield from (((*place, *inner), found) for inner, found in secret_refs(value))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _secret_refs_in(item, (*place, index))
