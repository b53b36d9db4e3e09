"""What the models check in code, as an API server can check it before it takes a resource: in the same words. Pure.

What it cannot be told (whether a filter or a pattern is well formed, whether a time zone is known) the controllers find
out, and say in a condition.
"""

from collections.abc import Mapping

from pydantic import BaseModel

from controllers.definitions.schemas import (
    FREE,
    Schema,
    at_most_one_of,
    given,
    is_default,
    one_of,
    structural,
    together,
)
from controllers.functions import runtimes
from controllers.functions.resource import FunctionSpec, Scale, Source, ValueFrom
from trigger_sources.cron.source import CronTrigger
from trigger_sources.http import expose
from trigger_sources.http.source import BasicAuth, HTTPAuth, HTTPTrigger
from trigger_sources.http_requests import ORIGIN, ORIGIN_RULE, Cors
from trigger_sources.kafka.reply import KafkaReply
from trigger_sources.kafka.security import Sasl
from trigger_sources.kafka.security import Tls as KafkaTls
from trigger_sources.kafka.trigger import KafkaTrigger
from trigger_sources.nats.connection import Tls as NATSTls
from trigger_sources.nats.reply import NATSReply
from trigger_sources.nats.spec import KeyFrom
from trigger_sources.nats.trigger import NATSTrigger
from trigger_sources.reply import Reply, reply_fields
from trigger_sources.source import TriggerSource
from trigger_sources.spec import (
    BROKER,
    BROKER_RULE,
    FUNCTION_NAME,
    FUNCTION_NAME_RULE,
    SERVER,
    SERVER_RULE,
    DeliveryPolicy,
    LabelSelector,
    Target,
)

_SHORT_TARGETS = {
    "function": ("function", "Short for target.function: the name of a Function in the same namespace"),
    "functionSelector": ("selector", "Short for target.selector: every Function with these labels"),
    "url": ("url", "Short for target.url: a plain HTTP address that is no Function"),
}


def details(model: type[BaseModel]) -> Schema:
    """What the schema of a class has beyond its model's: rules that the model checks in code, and types where the
    model leaves them free."""
    found = dict(_DETAILS.get(model, {}))
    if issubclass(model, Reply):
        found = {**_rules(one_of(*reply_fields())), **_schemas(function=_FUNCTION)}
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
    """A field of its own that has the name of a short target is none."""
    return [short for short in _SHORT_TARGETS if short not in model.model_fields]


def _rules(*rules: Schema) -> Schema:
    return {"x-kubernetes-validations": list(rules)}


def _schemas(**properties: Schema) -> Schema:
    return {"properties": properties}


def _text(pattern: str, problem: str, *, longest: int = 256, also: str = "false") -> Schema:
    """A text of this form, the problem told in words: of a schema's own pattern a person sees nothing but itself.

    The bound is for the API server: it refuses rules that may take too long.
    """
    return {"maxLength": longest, **_rules({"rule": f"{also} || self.matches(r'{pattern}')", "message": problem})}


def _texts(pattern: str, problem: str, *, longest: int = 256, most: int = 256) -> Schema:
    """A list of such."""
    rule = {"rule": f"self.all(each, each.matches(r'{pattern}'))", "message": problem}
    return {"maxItems": most, "items": {"type": "string", "maxLength": longest}, **_rules(rule)}


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
        _any(expose.PATH_RULE, hidden, no_path, f'self.path.matches(r"{expose.PATH}")'),
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
_TIME = r"^\d{4}-?\d\d-?\d\d[Tt ].*([Zz]|[+-]\d\d(:?\d\d)?)$"
_BROKERS = _texts(f"^{BROKER}$", BROKER_RULE, most=64)
_SERVERS = _texts(f"^{SERVER}$", SERVER_RULE, most=64)
_FUNCTION = _text(f"^{FUNCTION_NAME}$", FUNCTION_NAME_RULE, longest=63)
_MODULE_AND_FUNCTION = _text(r"^([^.\s]+(\.[^.\s]+)+)?$", "module.function is needed")
_DETAILS: Mapping[type[BaseModel], Schema] = {
    Target: {**_rules(one_of("function", "selector", "url")), **_schemas(function=_FUNCTION)},
    LabelSelector: {"required": ["matchLabels"], **_schemas(matchLabels={"minProperties": 1})},
    DeliveryPolicy: _rules(
        {
            "rule": "self.backoffMaxSeconds >= self.backoffSeconds",
            "message": "backoffMaxSeconds: must not be less than backoffSeconds",
        }
    ),
    KafkaReply: _schemas(brokers=_BROKERS),
    NATSReply: _schemas(servers=_SERVERS),
    KafkaTrigger: {
        **_rules(
            {
                "rule": f"(has(self.topics) && self.topics.size() > 0) != {given('topicPattern')}",
                "message": "topics: at least one topic, or a topicPattern, is needed, and one of them only",
            }
        ),
        **_schemas(
            brokers=_BROKERS,
            topics=_texts(r"^[A-Za-z0-9._-]{1,249}$", "a topic is letters, digits, ., _ and -, at most 249"),
            start=_text(
                _TIME,
                "earliest, latest, or a time in RFC 3339 with its zone is needed",
                also="self in ['earliest', 'latest']",
            ),
        ),
    },
    KafkaTls: _rules(together("certificate", "key")),
    Sasl: _rules(
        {
            "rule": f"self.mechanism == 'OAUTHBEARER' ? {given('token')} : {given('username')} && {given('password')}",
            "message": "OAUTHBEARER needs token, every other mechanism username and password",
        }
    ),
    NATSTls: _rules(together("certificate", "key")),
    KeyFrom: _rules(one_of("subjectToken", "header")),
    NATSTrigger: _schemas(
        servers=_SERVERS,
        subject=_text(
            r"^([^\s.>]+\.)*([^\s.>]+>?|>)$", "tokens without blanks, joined by dots, are needed; > at the end only"
        ),
        start=_text(
            _TIME,
            "all, new, a sequence, or a time in RFC 3339 with its zone is needed",
            also=r"self in ['all', 'new'] || self.matches(r'^\d+$')",
        ),
        **dict.fromkeys(
            ("stream", "durable", "queue"),
            _text(r"^[^\s.*>/\\]+$", "a name has no blanks, dots, wildcards or slashes"),
        ),
    ),
    CronTrigger: {
        **_rules(one_of("schedule", "at")),
        **_schemas(
            schedule=_text(
                r"^\s*(@(?i:midnight|hourly|daily|weekly|monthly|yearly|annually)|([\w*/,#?-]+\s+){4,5}[\w*/,#?-]+)\s*$",
                "five fields, six with seconds first, or an alias as @hourly are needed",
            ),
            at=_text(_TIME, "a time in RFC 3339 with its zone is needed, as 2030-01-31T09:00:00Z"),
            timeZone=_text(r"^[A-Za-z0-9_+/-]+$", "a time zone as Europe/Berlin is needed"),
        ),
    },
    BasicAuth: _rules(one_of("username", "users"), together("username", "password")),
    HTTPTrigger: {
        **_exposure(),
        **_schemas(
            path=_text(
                r"^(/([^/{}?#%\\\s]*|\{[^/{}.]+\}))*(/\{[^/{}.]+\.\.\.\})?$",
                "a path begins with /, has no ?, #, %, backslash or blank, and parameters only as whole segments:"
                " {name}, or {name...} at the end",
                longest=1024,
            ),
            host=_text(r"^[^/:*@?#,\[\]\s]+$", "a name without scheme, port, path or * is needed, as shop.example"),
        ),
    },
    Cors: _schemas(origins=_texts(f"^([*]|{ORIGIN})$", ORIGIN_RULE, most=64)),
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
            **dict.fromkeys(("handler", "startup", "shutdown"), _MODULE_AND_FUNCTION),
            env={"maxItems": 512},  # an API server refuses a rule that an endless list could repeat
            envFrom=_ENV_FROM,
            resources=_RESOURCES,
            scale={"default": {}},  # so that its own are filled in: the scale subresource needs min
        ),
    },
}
