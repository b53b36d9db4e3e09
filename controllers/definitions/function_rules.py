"""The admission rules of Function, in addition to the schema of its model. Pure."""

from collections.abc import Mapping

from pydantic import BaseModel

from controllers.definitions.cel_rules import (
    at_most_one_of,
    is_set,
    not_on_cluster,
    one_of,
    text,
    together,
    with_properties,
    with_rules,
)
from controllers.definitions.schemas import FREE, Schema
from controllers.functions import runtimes
from controllers.functions.resource import FunctionSpec, Scale, Source, ValueFrom

_QUANTITIES: Schema = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {
        **FREE,  # a number or a string, as in a pod, which no type can express; therefore no rule can read it
        "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
    },
}
_OBJECT_NAME: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "minLength": 1}, "optional": {"type": "boolean"}},
}
_ENV_FROM: Schema = {
    "type": "array",
    "maxItems": 64,
    "description": "As in a container: every key of a ConfigMap or Secret is a variable",
    "items": {
        "type": "object",
        **with_rules(one_of("configMapRef", "secretRef")),
        "properties": {"prefix": {"type": "string"}, "configMapRef": _OBJECT_NAME, "secretRef": _OBJECT_NAME},
    },
}
_RESOURCES: Schema = {
    "type": "object",
    "description": "As in a container: requests and limits",
    "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
}
_MODULE_AND_FUNCTION = text(r"^([^.\s]+(\.[^.\s]+)+)?$", "write module.function")
FUNCTION_DETAILS: Mapping[type[BaseModel], Schema] = {
    ValueFrom: with_rules(one_of("secretKeyRef", "configMapKeyRef")),
    Source: with_rules(
        one_of("path", "inline", "files", "url", "configMap", "image"),
        together("url", "sha256"),
        {"rule": "!has(self.authorization) || has(self.url)", "message": "authorization goes with url only"},
        not_on_cluster("path", "`kubeirq deploy` uploads them"),
        {
            "rule": "!has(self.include) || self.include.size() == 0",
            "message": "include: a cluster cannot read your files; `kubeirq deploy` uploads them",
        },
    ),
    Scale: with_rules(
        {"rule": f"!{is_set('max')} || self.max >= self.min", "message": "max: must not be less than min"}
    ),
    FunctionSpec: {
        **with_rules(
            at_most_one_of("dependencies", "dependenciesPath"),
            not_on_cluster("dependenciesPath", "`kubeirq deploy` uploads it"),
        ),
        **with_properties(
            runtime={"enum": list(runtimes.NAMES)},
            **dict.fromkeys(("handler", "startup", "shutdown"), _MODULE_AND_FUNCTION),
            env={"maxItems": 512},  # the API server refuses rules for the items of an unbounded list
            envFrom=_ENV_FROM,
            resources=_RESOURCES,
            scale={
                "default": {}
            },  # so that the API server also sets the default of min, which the scale subresource needs
        ),
    },
}
