"""Generates the CustomResourceDefinitions of Function and of every installed kind of trigger. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from controllers.cluster.api import GROUP, VERSION
from controllers.cluster.known_fields import IGNORABLE
from controllers.definitions.admission import details, shorts_of
from controllers.definitions.schemas import NotStructural, Schema, ignorable_fields, structural
from controllers.functions.resource import FunctionSpec
from controllers.functions.runtimes import DEFAULT as DEFAULT_RUNTIME
from trigger_sources.http.source import HTTPTrigger
from trigger_sources.registry import kinds, source_of
from trigger_sources.source import TriggerSource
from trigger_sources.spec import FUNCTION_NAME, FUNCTION_NAME_RULE

FUNCTION = "Function"
# In the chart, in place of the default runtime: the API server fills it in, so a controller never sees that it is unset
_RUNTIME_BY_VALUE = f"'{{{{ default \"{DEFAULT_RUNTIME}\" .Values.functions.defaultRuntime }}}}'"
_NAME = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SHORT_NAMES = {
    FUNCTION: ["fn"],
    "HTTPTrigger": ["httpt"],
    "CronTrigger": ["cront"],
    "KafkaTrigger": ["kt"],
    "NATSTrigger": ["nt"],
}


def crds() -> list[Schema]:
    """All CustomResourceDefinitions, Function first. Raises BrokenPlugin, NotStructural."""
    return [crd_of(kind) for kind in (FUNCTION, *sorted(kinds()))]


def crd_of(kind: str) -> Schema:
    """The CustomResourceDefinition of an installed kind. Raises KeyError, BrokenPlugin, NotStructural."""
    return definition_of(kind, _model_of(kind))


def definition_of(kind: str, model: type[FunctionSpec] | type[TriggerSource]) -> Schema:
    """The CustomResourceDefinition of a kind with this model. Raises NotStructural, which names kind and field."""
    group = model.api_group if issubclass(model, TriggerSource) else GROUP
    plural = f"{kind.lower()}s"
    try:
        spec = structural(model, details)
    except NotStructural as error:
        raise NotStructural(f"{kind}: {error}") from None
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    short_names = {"shortNames": _SHORT_NAMES[kind]} if kind in _SHORT_NAMES else {}
    schema = {
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _status_of(kind),
        },
        "x-kubernetes-validations": [_name_rule_of(kind)],
    }
    ignorable = ",".join(ignorable_fields(model))
    annotations = {"annotations": {IGNORABLE: ignorable}} if ignorable else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", **annotations},
        "spec": {
            "group": group,
            "names": {**names, **short_names, "categories": ["kubeirq"]},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": _subresources_of(kind),
                    "additionalPrinterColumns": list(_columns_of(model)),
                }
            ],
        },
    }


def chart_files() -> dict[str, str]:
    """The chart's templates of the built-in kinds, by file name.

    They are templates because Helm never upgrades its `crds` folder. Helm keeps them when you uninstall the release,
    because the deletion of a CustomResourceDefinition deletes all its resources.
    """
    found = {}
    for kind in (FUNCTION, *sorted(kinds())):
        if _model_of(kind).__module__.partition(".")[0] in ("controllers", "trigger_sources"):
            crd = crd_of(kind)
            kept = {"helm.sh/resource-policy": "keep"}
            crd["metadata"]["annotations"] = {**kept, **crd["metadata"].get("annotations", {})}
            text = yaml_of([crd]).replace(f"default: {DEFAULT_RUNTIME}\n", f"default: {_RUNTIME_BY_VALUE}\n")
            found[f"{crd['spec']['names']['plural']}.yaml"] = (
                f"{{{{- if .Values.crds.install }}}}\n{text}{{{{- end }}}}\n"
            )
    return found


def yaml_of(documents: Sequence[Schema]) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def _model_of(kind: str) -> type[FunctionSpec] | type[TriggerSource]:
    return FunctionSpec if kind == FUNCTION else source_of(kind)


class _Plain(yaml.SafeDumper):
    """A YAML dumper that writes repeated parts in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _name_rule_of(kind: str) -> Schema:
    """The rule for metadata.name: other objects use it as their name and as a label.

    A Function's name is also that of its Service, which must begin with a letter.
    """
    pattern, message = _NAME, "use lower-case letters, digits and -, at most 63 characters"
    if kind == FUNCTION:
        pattern, message = FUNCTION_NAME, FUNCTION_NAME_RULE
    return {"rule": f"self.metadata.name.matches(r'^{pattern}$')", "message": f"metadata.name: {message}"}


def _status_of(kind: str) -> Schema:
    text, count = {"type": "string"}, {"type": "integer"}
    condition: Schema = {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {**text, "description": "One word for programs"},
            "message": {**text, "description": "The problem and the way out"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    }
    installation: Schema = {
        "name": {**text, "description": "Namespace and name of the one that runs it"},
        "contender": {**text, "description": "Another one that watches the namespace, and gave way"},
        "asked": {**text, "description": "Its last question whether the first one runs"},
        "answered": {**text, "description": "The last question that was answered"},
    }
    common: Schema = {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "items": condition,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
        "installation": {
            "type": "object",
            "description": "The installation that runs it",
            "properties": installation,
        },
    }
    claims: Schema = {"claims": text, "since": {"type": "string", "format": "date-time"}}
    later = {"type": "array", "items": {"type": "object", "properties": claims}}
    own: Schema = (
        {
            "url": {**text, "description": "The URL of the function inside the cluster"},
            "replicas": count,
            "readyReplicas": count,
            "selector": {**text, "description": "The labels of its pods"},
        }
        if kind == FUNCTION
        else {
            "functions": {"type": "array", "items": text, "description": "The functions that the selector found"},
            "nextRuns": {"type": "array", "items": {"type": "string", "format": "date-time"}},
            "state": {"type": "object", "additionalProperties": text, "description": "Durable state of the source"},
            "address": {**text, "description": "The URL of an HTTPTrigger"},
            "served": {
                "type": "object",
                "description": "The claims, such as a route, that the trigger owns, and since when",
                "properties": {
                    **claims,
                    "later": {**later, "description": "Those that it has owned for a shorter time"},
                },
            },
        }
    )
    return {"type": "object", "properties": {**common, **own}}


def _subresources_of(kind: str) -> Schema:
    if kind != FUNCTION:
        return {"status": {}}
    return {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.scale.min",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def _columns_of(model: type[FunctionSpec] | type[TriggerSource]) -> Iterator[Schema]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    yield {"name": "Ready", "type": "string", "jsonPath": f"{ready}.status"}
    yield {"name": "Reason", "type": "string", "jsonPath": f"{ready}.reason"}
    if not issubclass(model, TriggerSource):
        yield {"name": "Runtime", "type": "string", "jsonPath": ".spec.runtime"}
        yield {"name": "Handler", "type": "string", "jsonPath": ".spec.handler"}
        yield {"name": "Replicas", "type": "integer", "jsonPath": ".status.readyReplicas"}
    else:
        names = ",".join(f"'{name}'" for name in (*shorts_of(model), "target"))
        yield {"name": "Target", "type": "string", "jsonPath": f".spec[{names}]"}  # the one that is set
        for title, field in model.printer_columns.items():
            yield {"name": title, "type": "string", "jsonPath": f".spec.{field}"}
        yield {"name": "Suspended", "type": "boolean", "jsonPath": ".spec.suspend", "priority": 1}
        if issubclass(model, HTTPTrigger):
            yield {"name": "Address", "type": "string", "jsonPath": ".status.address", "priority": 1}
    yield {"name": "Message", "type": "string", "jsonPath": f"{ready}.message", "priority": 1}
    yield {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
