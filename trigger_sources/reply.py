"""The field `reply` of every trigger: one field for each kind of reply target that is installed."""

from functools import cache
from typing import Any

from pydantic import Field, GetJsonSchemaHandler, ModelWrapValidatorHandler, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trigger_sources import plugins
from trigger_sources.plugins import BrokenPlugin
from trigger_sources.publisher import ReplyTarget
from trigger_sources.spec import Spec, problem_of_name, problem_of_url

GROUP = "kubeirq.publishers"


class Reply(Spec):
    """Publishes a function's return value, confirmed before the event is settled: exactly one of these."""

    function: str | None = Field(None, min_length=1, description="Another Function of the same namespace")
    url: str | None = Field(None, pattern=r"^https?://", description="An HTTP address, which gets a POST")

    @property
    def target(self) -> ReplyTarget | None:
        """The value of the field that a registered kind has; None for a function or URL."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return next((value for value in values if isinstance(value, ReplyTarget)), None)

    @model_validator(mode="wrap")
    @classmethod
    def _with_targets(cls, data: Any, handler: ModelWrapValidatorHandler["Reply"]) -> "Reply":
        """Adds the fields of the kinds that are used. No other kind is loaded."""
        used = reply_kinds().intersection(data) if cls is Reply and isinstance(data, dict) else frozenset()
        if not used:
            return handler(data)
        try:
            model = _reply_with(used)
        except BrokenPlugin as error:
            raise ValueError(str(error)) from error
        return model.model_validate(data)

    @model_validator(mode="after")
    def _exactly_one(self) -> "Reply":
        names = reply_fields()
        given = [name for name in names if getattr(self, name, None) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(names)} is needed; given: {', '.join(given) or 'none'}")
        for field, value, problem_of in (
            ("function", self.function, problem_of_name),
            ("url", self.url, problem_of_url),
        ):
            if value is not None and (problem := problem_of(value)):
                raise ValueError(f"{field}: {problem}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of `reply` has the fields of all installed kinds. Raises BrokenPlugin."""
        if cls is not Reply:
            return handler(schema)
        found = handler(_reply_with(reply_kinds()).__pydantic_core_schema__)
        whole = handler.resolve_ref_schema(found)
        whole["properties"] = {name: whole["properties"][name] for name in reply_fields()}
        return found


@cache
def reply_kinds() -> frozenset[str]:
    """The kinds of reply targets that are installed. Loads nothing."""
    return plugins.names(GROUP)


@cache
def reply_fields() -> tuple[str, ...]:
    """The names of all fields of `reply`: those of the kinds, then those that need no kind."""
    return (*sorted(reply_kinds()), *Reply.model_fields)


@cache
def target_of(kind: str) -> type[ReplyTarget]:
    """The class of a kind. Raises KeyError for an unknown kind, BrokenPlugin for a class that cannot be loaded."""
    if hasattr(Reply, kind) or kind in Reply.model_fields:
        raise BrokenPlugin(f"reply target {kind!r}: the name is taken; register the class under another one")
    return plugins.load(GROUP, kind, ReplyTarget, "reply target")


@cache
def _reply_with(kinds: frozenset[str]) -> type[Reply]:
    """The model with a field for each of these kinds."""
    fields: dict[str, Any] = {kind: (target_of(kind) | None, Field(None, alias=kind)) for kind in sorted(kinds)}
    return create_model("Reply", __base__=Reply, __doc__=Reply.__doc__, **fields)
