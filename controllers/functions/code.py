"""A Function without the texts of its code, as the caches hold it: the code of all Functions does not fit into memory.

The ConfigMap with the texts is the only object that needs them. Every other object needs the `Code` alone. Pure.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from controllers.cluster.known_fields import (
    UNKNOWN_VALUE,
    WAY_OUT,
    is_from_newer,
    listed_in,
    not_ignorable,
    unknown_field,
    validated,
)
from controllers.functions.config_map import config_map_of, digest_of
from controllers.functions.pod_template import files_of, has_dependencies
from controllers.functions.resource import FunctionSpec
from controllers.functions.runtimes import BY_NAME
from trigger_sources.problems import problem_text

Object = dict[str, Any]

PAGE_SIZE = 10  # Functions in one response: each may have a megabyte of code
_CODE, _PROBLEM, _REASON = "code", "problem", "reason"  # fields that `without_texts` adds
UNKNOWN = "unknown"  # another: the places of the fields that this version does not know, if there are any
_SOME_DEPENDENCY = "?"


@dataclass(frozen=True)
class Code:
    """The identity of a Function's code."""

    config_map: str  # the name of the ConfigMap with the texts, empty without texts
    digest: str  # an annotation of the pods, so that other code leads to a rollout


class InvalidFunction(ValueError):
    """The spec is not valid. The text is for the function's author, `reason` for the condition."""

    def __init__(self, message: str, reason: str = "Invalid") -> None:
        super().__init__(message)
        self.reason = reason


def code_of(metadata: Mapping[str, Any], spec: FunctionSpec) -> tuple[Object, Code]:
    """The ConfigMap with the texts, empty without texts, and the code's identity. Raises TooLarge."""
    files, dependencies = files_of(spec), {}
    if has_dependencies(spec):
        dependencies = {BY_NAME[spec.runtime].dependencies_file: spec.dependencies or ""}
    made = config_map_of(metadata, files, dependencies=dependencies) if files or dependencies else {}
    source = spec.source.model_dump(mode="json", exclude_none=True, exclude={"files"})
    digest = digest_of({"source": repr(sorted(source.items())), **made.get("data", {})})
    return made, Code(made["metadata"]["name"] if made else "", digest)


def without_texts(function: Mapping[str, Any]) -> Object:
    """The Function with empty texts, and with the identity of its code or the problem of its spec. Idempotent."""
    if _CODE in function or _PROBLEM in function:
        return dict(function)
    metadata = {name: value for name, value in function["metadata"].items() if name != "managedFields"}
    found: Object = {**function, "metadata": metadata}
    try:
        read, unknown = validated(FunctionSpec, function.get("spec"))
        spec = read.named(metadata["name"])
        found[_CODE] = asdict(code_of({"name": metadata["name"]}, spec)[1])
    except ValueError as error:
        found[_PROBLEM], found[_REASON] = problem_text(error, FunctionSpec), "Invalid"
        if is_from_newer(error):
            found[_PROBLEM], found[_REASON] = f"{found[_PROBLEM]}; {WAY_OUT}", UNKNOWN_VALUE
        found["spec"] = {}
        return found
    source = dict(function["spec"]["source"])
    if spec.source.inline is not None:
        source["inline"] = ""
    if spec.source.files is not None:
        source["files"] = dict.fromkeys(spec.source.files, "")
    found["spec"] = {**function["spec"], "source": source}
    if unknown:
        found[UNKNOWN] = unknown
    if spec.dependencies is not None:
        found["spec"]["dependencies"] = _SOME_DEPENDENCY if has_dependencies(spec) else ""
    return found


def spec_and_code_of(function: Mapping[str, Any], ignorable: Collection[str] = ()) -> tuple[FunctionSpec, Code]:
    """Of a Function from `without_texts`. `ignorable` are the fields that the definition lists.

    Raises InvalidFunction.
    """
    if _PROBLEM in function:
        raise InvalidFunction(function[_PROBLEM], function[_REASON])
    if unknown := not_ignorable(function.get(UNKNOWN, ()), {*ignorable, *listed_in(function)}):
        reason, message = unknown_field(unknown)
        raise InvalidFunction(message, reason)
    spec = validated(FunctionSpec, function["spec"])[0].named(function["metadata"]["name"])
    return spec, Code(**function[_CODE])
