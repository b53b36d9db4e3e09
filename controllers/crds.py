"""The CustomResourceDefinitions of Function and of every trigger kind that is installed. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from controllers import runtimes
from controllers.function import FunctionSpec, Scale, Source, ValueFrom
from controllers.schemas import (
    FREE,
    NotStructural,
    Schema,
    at_most_one_of,
    given,
    is_default,
    one_of,
    structural,
    together,
)
from trigger_sources.cron.source import CronTrigger
from trigger_sources.http import expose
from trigger_sources.http.source import BasicAuth, HTTPAuth, HTTPTrigger
from trigger_sources.kafka.security import Sasl
from trigger_sources.kafka.security import Security as KafkaSecurity
from trigger_sources.kafka.security import Tls as KafkaTls
from trigger_sources.kafka.trigger import KafkaTrigger
from trigger_sources.nats.connection import Security as NATSSecurity
from trigger_sources.nats.connection import Tls as NATSTls
from trigger_sources.nats.trigger import KeyFrom
from trigger_sources.registry import kinds, source_of
from trigger_sources.source import TriggerSource
from trigger_sources.spec import DeliveryPolicy, KafkaReply, LabelSelector, NATSReply, Reply, Target

GROUP, VERSION = "kubeirq.dev", "v1"
FUNCTION = "Function"
_SHORT_NAMES = {
    FUNCTION: ["fn"],
    "HTTPTrigger": ["httpt"],
    "CronTrigger": ["cront"],
    "KafkaTrigger": ["kt"],
    "NATSTrigger": ["nt"],
}
_SHORT_TARGETS = {
    "function": ("function", "Short for target.function: the name of a Function in the same namespace"),
    "functionSelector": ("selector", "Short for target.selector: every Function with these labels"),
    "url": ("url", "Short for target.url: a plain HTTP address that is no Function"),
}


def crds() -> list[Schema]:
    """All of them, Function first. Raises BrokenPlugin, NotStructural."""
    return [crd_of(kind) for kind in (FUNCTION, *sorted(kinds()))]


def crd_of(kind: str) -> Schema:
    """The definition of a kind that is installed. Raises KeyError, BrokenPlugin, NotStructural."""
    return definition_of(kind, _model_of(kind))


def definition_of(kind: str, model: type[FunctionSpec] | type[TriggerSource]) -> Schema:
    """The definition of a kind whose spec is `model`. Raises NotStructural, which names the kind and the field."""
    group = model.api_group if issubclass(model, TriggerSource) else GROUP
    plural = f"{kind.lower()}s"
    try:
        spec = structural(model, _details)
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
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
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
    """The chart's templates of the built-in kinds, by file name. Helm never upgrades its folder `crds`, so these are
    templates; it keeps them when the release goes, since with a definition all its resources go.
    """
    found = {}
    for kind in (FUNCTION, *sorted(kinds())):
        if _model_of(kind).__module__.partition(".")[0] in ("controllers", "trigger_sources"):
            crd = crd_of(kind)
            crd["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
            found[f"{crd['spec']['names']['plural']}.yaml"] = (
                f"{{{{- if .Values.crds.install }}}}\n{yaml_of([crd])}{{{{- end }}}}\n"
            )
    return found


def yaml_of(documents: Sequence[Schema]) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def _model_of(kind: str) -> type[FunctionSpec] | type[TriggerSource]:
    return FunctionSpec if kind == FUNCTION else source_of(kind)


class _Plain(yaml.SafeDumper):
    """Without anchors: each part is written where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _details(model: type[BaseModel]) -> Schema:
    """What the schema of a class has beyond its model's: rules that the model checks in code, and types where the
    model leaves them free."""
    found = dict(_DETAILS.get(model, {}))
    if model in _REPLY_SECURITY:
        found |= _schemas(security={**structural(_REPLY_SECURITY[model], _details), "nullable": True})
    if issubclass(model, TriggerSource):
        shorts = _shorts_of(model)
        rules = [one_of("target", *shorts), *found.get("x-kubernetes-validations", [])]
        target = structural(Target, _details)["properties"]
        properties = {
            short: {**target[part], "description": description}
            for short, (part, description) in _SHORT_TARGETS.items()
            if short in shorts
        }
        found = {**found, "x-kubernetes-validations": rules, "properties": properties}
    return found


def _shorts_of(model: type[TriggerSource]) -> list[str]:
    """A field of its own that has the name of a short target is none."""
    return [short for short in _SHORT_TARGETS if short not in model.model_fields]


def _rules(*rules: Schema) -> Schema:
    return {"x-kubernetes-validations": list(rules)}


def _schemas(**properties: Schema) -> Schema:
    return {"properties": properties}


def _not_on_a_cluster(name: str, way_out: str) -> Schema:
    return {"rule": f"!{given(name)}", "message": f"{name}: a cluster cannot see your files; {way_out}"}


def _any(message: str, *alternatives: str) -> Schema:
    return {"rule": " || ".join(alternatives), "message": message}


def _exposure() -> Schema:
    """What an HTTPTrigger that is exposed must not have, in the words of its model."""
    hidden = f"!{given('expose')}"
    no_ingress = f"{hidden} || !{given('expose.ingress')}"
    no_route = f"{hidden} || !{given('expose.httpRoute')}"
    found = []
    for name, field in HTTPTrigger.model_fields.items():
        if name not in expose.FIELDS:
            shown = field.alias or name
            default = field.get_default(call_default_factory=True)
            defaults = expose.DELIVERIES if name == "delivery" else (default,)
            are_default = [is_default(shown, value) for value in defaults]
            found.append(_any(expose.only_gateway(shown), hidden, *are_default))
    no_path, methods = f"!{given('path')}", HTTPTrigger.model_fields["methods"].default
    return _rules(
        *found,
        _any(expose.ONE_FUNCTION, hidden, given("function"), f"({given('target')} && {given('target.function')})"),
        _any(expose.PATH_TOLD, hidden, no_path, f'self.path.matches(r"{expose.PATH}")'),
        _any(expose.NO_METHODS, no_ingress, is_default("methods", methods)),
        _any(
            expose.REST_IS_A_PREFIX,
            f"{no_ingress} || {no_path} || !self.path.endsWith('{expose.REST}')",
            is_default("expose.ingress.pathType", "Prefix"),
            f"!{given('expose.ingress.pathType')}",
        ),
        _any(
            expose.ONE_HOST,
            f"{no_route} || !{given('host')}",
            "!has(self.expose.httpRoute.hostnames) || self.expose.httpRoute.hostnames.size() == 0",
        ),
    )


_QUANTITIES: Schema = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {
        **FREE,  # 1, 0.5 and 500m, as a pod takes them: no type says that. The price: no rule can look at them
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
        **_rules(one_of("configMapRef", "secretRef")),
        "properties": {"prefix": {"type": "string"}, "configMapRef": _OBJECT_NAME, "secretRef": _OBJECT_NAME},
    },
}
_RESOURCES: Schema = {
    "type": "object",
    "description": "As in a container: requests and limits",
    "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
}
_REPLY_SECURITY: Mapping[type[BaseModel], type[BaseModel]] = {KafkaReply: KafkaSecurity, NATSReply: NATSSecurity}
_DETAILS: Mapping[type[BaseModel], Schema] = {
    Target: _rules(one_of("function", "selector", "url")),
    LabelSelector: {"required": ["matchLabels"], **_schemas(matchLabels={"minProperties": 1})},
    DeliveryPolicy: _rules(
        {
            "rule": "self.backoffMaxSeconds >= self.backoffSeconds",
            "message": "backoffMaxSeconds: must not be less than backoffSeconds",
        }
    ),
    Reply: _rules(one_of("kafka", "nats", "function", "url")),
    KafkaTrigger: _rules(
        {
            "rule": f"(has(self.topics) && self.topics.size() > 0) != {given('topicPattern')}",
            "message": "topics: at least one topic, or a topicPattern, is needed, and one of them only",
        }
    ),
    KafkaTls: _rules(together("certificate", "key")),
    Sasl: _rules(
        {
            "rule": f"self.mechanism == 'OAUTHBEARER' ? {given('token')} : {given('username')} && {given('password')}",
            "message": "OAUTHBEARER needs token, every other mechanism username and password",
        }
    ),
    NATSTls: _rules(together("certificate", "key")),
    KeyFrom: _rules(one_of("subjectToken", "header")),
    CronTrigger: _rules(one_of("schedule", "at")),
    BasicAuth: _rules(one_of("username", "users"), together("username", "password")),
    HTTPTrigger: _exposure(),
    expose.Exposure: _rules(one_of("ingress", "httpRoute")),
    HTTPAuth: _rules(
        {"rule": f"{given('basic')} || {given('bearer')}", "message": "at least one of basic, bearer is needed"}
    ),
    ValueFrom: _rules(one_of("secretKeyRef", "configMapKeyRef")),
    Source: _rules(
        one_of("path", "inline", "files", "url", "configMap", "image"),
        together("url", "sha256"),
        _not_on_a_cluster("path", "`kubeirq deploy` sends them"),
        {
            "rule": "!has(self.include) || self.include.size() == 0",
            "message": "include: a cluster cannot see your files; `kubeirq deploy` sends them",
        },
    ),
    Scale: _rules({"rule": f"!{given('max')} || self.max >= self.min", "message": "max: must not be less than min"}),
    FunctionSpec: {
        **_rules(
            at_most_one_of("dependencies", "dependenciesPath"),
            _not_on_a_cluster("dependenciesPath", "`kubeirq deploy` sends it"),
        ),
        **_schemas(
            runtime={"enum": list(runtimes.NAMES)},
            env={"maxItems": 512},  # an API server refuses a rule that an endless list could repeat
            envFrom=_ENV_FROM,
            resources=_RESOURCES,
            scale={"default": {}},  # so that its own are filled in: the scale subresource needs min
        ),
    },
}


def _status_of(kind: str) -> Schema:
    text, count = {"type": "string"}, {"type": "integer"}
    condition: Schema = {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {**text, "description": "One word for machines"},
            "message": {**text, "description": "What is wrong, and what to do"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    }
    common: Schema = {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "items": condition,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    }
    own: Schema = (
        {
            "url": {**text, "description": "Where the function is called"},
            "replicas": count,
            "readyReplicas": count,
            "selector": {**text, "description": "The labels of its pods"},
            "revision": {**text, "description": "Which code runs"},
        }
        if kind == FUNCTION
        else {
            "functions": {"type": "array", "items": text, "description": "The functions that the selector found"},
            "nextRuns": {"type": "array", "items": {"type": "string", "format": "date-time"}},
            "state": {"type": "object", "additionalProperties": text, "description": "Cursors of the source"},
            "address": {**text, "description": "Where an exposed HTTPTrigger is called"},
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
        names = ",".join(f"'{name}'" for name in (*_shorts_of(model), "target"))
        yield {"name": "Target", "type": "string", "jsonPath": f".spec[{names}]"}  # the one that is there
        yield {"name": "Suspended", "type": "boolean", "jsonPath": ".spec.suspend", "priority": 1}
        if issubclass(model, HTTPTrigger):
            yield {"name": "Address", "type": "string", "jsonPath": ".status.address", "priority": 1}
    yield {"name": "Message", "type": "string", "jsonPath": f"{ready}.message", "priority": 1}
    yield {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
