"""The admission rules of the built-in triggers, in addition to the schemas of their models. Pure."""

from collections.abc import Mapping

from pydantic import BaseModel

from controllers.definitions.cel_rules import (
    any_of,
    is_default,
    is_set,
    one_of,
    text,
    text_list,
    together,
    with_properties,
    with_rules,
)
from controllers.definitions.schemas import Schema
from trigger_sources.cron.source import CronTrigger
from trigger_sources.http import expose
from trigger_sources.http.source import BasicAuth, HTTPAuth, HTTPTrigger
from trigger_sources.http_requests import ORIGIN, ORIGIN_RULE, Cors
from trigger_sources.kafka.reply import KafkaReply
from trigger_sources.kafka.security import Sasl
from trigger_sources.kafka.security import Tls as KafkaTls
from trigger_sources.kafka.trigger import KafkaTrigger
from trigger_sources.nats.reply import NATSReply
from trigger_sources.nats.security import Tls as NATSTls
from trigger_sources.nats.spec import KeyFrom
from trigger_sources.nats.trigger import NATSTrigger
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


def _exposure() -> Schema:
    """The rules for an HTTPTrigger with `expose`, with the messages of its model."""
    hidden = f"!{is_set('expose')}"
    no_ingress = f"{hidden} || !{is_set('expose.ingress')}"
    no_route = f"{hidden} || !{is_set('expose.httpRoute')}"
    found = []
    for name, field in HTTPTrigger.model_fields.items():
        if name not in expose.FIELDS:
            shown = field.alias or name
            default = field.get_default(call_default_factory=True)
            defaults = expose.DELIVERIES if name == "delivery" else (default,)
            are_default = [is_default(shown, value) for value in defaults]
            found.append(any_of(expose.only_gateway(shown), hidden, *are_default))
    no_path, methods = f"!{is_set('path')}", HTTPTrigger.model_fields["methods"].default
    return with_rules(
        *found,
        any_of(expose.ONE_FUNCTION, hidden, is_set("function"), f"({is_set('target')} && {is_set('target.function')})"),
        any_of(expose.PATH_RULE, hidden, no_path, f'self.path.matches(r"{expose.PATH}")'),
        any_of(expose.NO_METHODS, no_ingress, is_default("methods", methods)),
        any_of(
            expose.REST_IS_A_PREFIX,
            f"{no_ingress} || {no_path} || !self.path.endsWith('{expose.REST}')",
            is_default("expose.ingress.pathType", "Prefix"),
            f"!{is_set('expose.ingress.pathType')}",
        ),
        any_of(
            expose.ONE_HOST,
            f"{no_route} || !{is_set('host')}",
            "!has(self.expose.httpRoute.hostnames) || self.expose.httpRoute.hostnames.size() == 0",
        ),
    )


_TIME = r"^\d{4}-?\d\d-?\d\d[Tt ].*([Zz]|[+-]\d\d(:?\d\d)?)$"
_BROKERS = text_list(f"^{BROKER}$", BROKER_RULE, max_items=64)
_SERVERS = text_list(f"^{SERVER}$", SERVER_RULE, max_items=64)
FUNCTION_REFERENCE = text(f"^{FUNCTION_NAME}$", FUNCTION_NAME_RULE, max_length=63)
TRIGGER_DETAILS: Mapping[type[BaseModel], Schema] = {
    Target: {**with_rules(one_of("function", "selector", "url")), **with_properties(function=FUNCTION_REFERENCE)},
    LabelSelector: {"required": ["matchLabels"], **with_properties(matchLabels={"minProperties": 1})},
    DeliveryPolicy: with_rules(
        {
            "rule": "self.backoffMaxSeconds >= self.backoffSeconds",
            "message": "backoffMaxSeconds: must not be less than backoffSeconds",
        }
    ),
    KafkaReply: with_properties(brokers=_BROKERS),
    NATSReply: with_properties(servers=_SERVERS),
    KafkaTrigger: {
        **with_rules(
            {
                "rule": f"(has(self.topics) && self.topics.size() > 0) != {is_set('topicPattern')}",
                "message": "topics: at least one topic, or a topicPattern, is needed, and one of them only",
            }
        ),
        **with_properties(
            brokers=_BROKERS,
            topics=text_list(r"^[A-Za-z0-9._-]{1,249}$", "a topic is letters, digits, ., _ and -, at most 249"),
            start=text(
                _TIME,
                "earliest, latest, or a time in RFC 3339 with its zone is needed",
                unless="self in ['earliest', 'latest']",
            ),
        ),
    },
    KafkaTls: with_rules(together("certificate", "key")),
    Sasl: with_rules(
        {
            "rule": f"self.mechanism == 'OAUTHBEARER' ? {is_set('token')} : "
            f"{is_set('username')} && {is_set('password')}",
            "message": "OAUTHBEARER needs token, every other mechanism username and password",
        }
    ),
    NATSTls: with_rules(together("certificate", "key")),
    KeyFrom: with_rules(one_of("subjectToken", "header")),
    NATSTrigger: with_properties(
        servers=_SERVERS,
        subject=text(
            r"^([^\s.>]+\.)*([^\s.>]+>?|>)$", "tokens without blanks, joined by dots, are needed; > at the end only"
        ),
        start=text(
            _TIME,
            "all, new, a sequence, or a time in RFC 3339 with its zone is needed",
            unless=r"self in ['all', 'new'] || self.matches(r'^\d+$')",
        ),
        **dict.fromkeys(
            ("stream", "durable", "queue"),
            text(r"^[^\s.*>/\\]+$", "a name has no blanks, dots, wildcards or slashes"),
        ),
    ),
    CronTrigger: {
        **with_rules(one_of("schedule", "at")),
        **with_properties(
            schedule=text(
                r"^\s*(@(?i:midnight|hourly|daily|weekly|monthly|yearly|annually)|([\w*/,#?-]+\s+){4,5}[\w*/,#?-]+)\s*$",
                "five fields, six with seconds first, or an alias as @hourly are needed",
            ),
            at=text(_TIME, "a time in RFC 3339 with its zone is needed, as 2030-01-31T09:00:00Z"),
            timeZone=text(r"^[A-Za-z0-9_+/-]+$", "a time zone as Europe/Berlin is needed"),
        ),
    },
    BasicAuth: with_rules(one_of("username", "users"), together("username", "password")),
    HTTPTrigger: {
        **_exposure(),
        **with_properties(
            path=text(
                r"^(/([^/{}?#%\\\s]*|\{[^/{}.]+\}))*(/\{[^/{}.]+\.\.\.\})?$",
                "a path begins with /, has no ?, #, %, backslash or blank, and parameters only as whole segments:"
                " {name}, or {name...} at the end",
                max_length=1024,
            ),
            host=text(r"^[^/:*@?#,\[\]\s]+$", "a name without scheme, port, path or * is needed, as shop.example"),
        ),
    },
    Cors: with_properties(origins=text_list(f"^([*]|{ORIGIN})$", ORIGIN_RULE, max_items=64)),
    expose.Exposure: with_rules(one_of("ingress", "httpRoute")),
    HTTPAuth: with_rules(
        {"rule": f"{is_set('basic')} || {is_set('bearer')}", "message": "at least one of basic, bearer is needed"}
    ),
}
