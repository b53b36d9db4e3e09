"""Admission rules: the checks of the models that the API server can do as well, with the same messages. Pure.

The API server cannot check everything, for example a CEL filter, a pattern or a time zone. The controllers check the
rest, and report it in a condition.
"""

from pydantic import BaseModel

from controllers.definitions.cel_rules import one_of, with_properties, with_rules
from controllers.definitions.function_rules import FUNCTION_DETAILS
from controllers.definitions.schemas import Schema, structural
from controllers.definitions.trigger_rules import FUNCTION_REFERENCE, TRIGGER_DETAILS
from trigger_sources.reply import Reply, reply_fields
from trigger_sources.source import TriggerSource
from trigger_sources.spec import Target

_SHORT_TARGETS = {
    "function": ("function", "Short for target.function: the name of a Function in the same namespace"),
    "functionSelector": ("selector", "Short for target.selector: every Function with these labels"),
    "url": ("url", "Short for target.url: a plain HTTP address instead of a Function"),
}

_DETAILS = {**FUNCTION_DETAILS, **TRIGGER_DETAILS}


def details(model: type[BaseModel]) -> Schema:
    """Additions to the schema of a model: rules for the checks that the model does in code, and missing types."""
    found = dict(_DETAILS.get(model, {}))
    if issubclass(model, Reply):
        found = {**with_rules(one_of(*reply_fields())), **with_properties(function=FUNCTION_REFERENCE)}
    if issubclass(model, TriggerSource):
        shorts = shorts_of(model)
        rules = [one_of("target", *shorts), *found.get("x-kubernetes-validations", [])]
        target = structural(Target, details)["properties"]
        properties = {
            short: {**target[part], "description": description}
            for short, (part, description) in _SHORT_TARGETS.items()
            if short in shorts
        }
        properties |= found.get("properties", {})
        found = {**found, "x-kubernetes-validations": rules, "properties": properties}
    return found


def shorts_of(model: type[TriggerSource]) -> list[str]:
    """The short names of the target that the kind supports: a field of the kind itself takes precedence."""
    return [short for short in _SHORT_TARGETS if short not in model.model_fields]
