"""The definitions for a cluster say what the models say, in a form that an API server takes."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from cel_expr_python import cel
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from controllers.definitions.crds import chart_files, crd_of, crds, definition_of
from controllers.definitions.schemas import NotStructural, Schema, structural
from controllers.functions.resource import FunctionSpec
from trigger_sources import TriggerSource
from trigger_sources.registry import kinds, source_of
from trigger_sources.spec import BROKER_RULE, FUNCTION_NAME_RULE, SERVER_RULE

ROOT = Path(__file__).resolve().parents[4]
KINDS = ("Function", *sorted(kinds()))
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
A_SECRET = {"name": "s", "key": "k"}
BY_INGRESS: dict[str, Any] = {"ingress": {}}
BY_ROUTE: dict[str, Any] = {"httpRoute": {"parentRefs": [{"name": "g"}]}}
BY_ROUTE_WITH_HOST: dict[str, Any] = {"httpRoute": {"parentRefs": [{"name": "g"}], "hostnames": ["*.example"]}}


def test_the_charts_copies_are_the_generated_ones() -> None:
    folder = ROOT / "helm" / "kubeirq" / "templates" / "crds"
    found = {file.name: file.read_text() for file in folder.iterdir()}
    assert found == chart_files(), "say: make docs"


def test_a_chart_without_them_is_a_value_away_and_helm_keeps_them() -> None:
    for text in chart_files().values():
        first, *lines, last = text.splitlines()
        assert (first, last) == ("{{- if .Values.crds.install }}", "{{- end }}")
        inserted = [line.strip() for line in lines if "{{" in line]
        assert set(inserted) <= {"default: '{{ default \"python3.13\" .Values.functions.defaultRuntime }}'"}
        assert "    helm.sh/resource-policy: keep" in lines
    assert yaml.safe_load((ROOT / "helm/kubeirq/values.yaml").read_text())["crds"] == {"install": True}


def test_a_definition_lists_the_fields_that_an_older_controller_may_leave_out() -> None:
    ignorable: dict[str, Any] = {"json_schema_extra": {"x-ignorable": True}}

    class Part(BaseModel):
        note: str = Field("", **ignorable)
        limit: int = 1

    class PaintTrigger(TriggerSource):
        """Paints."""

        colour: str | None = Field(None, **ignorable)
        parts: list[Part] = Field(default_factory=list)
        part: Part | None = None
        look: Part | None = Field(None, **ignorable)

    found = definition_of("PaintTrigger", PaintTrigger)
    listed = found["metadata"]["annotations"]["kubeirq.dev/ignorable-fields"]
    assert listed == "spec.colour,spec.look,spec.part.note,spec.parts[].note"
    assert "x-ignorable" not in str(found)
    assert all("annotations" not in crd["metadata"] for crd in crds())


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_is_typed_and_nothing_is_referred_to_or_united(kind: str) -> None:
    nodes = list(nodes_of(schema_of(kind), kind))
    assert len(nodes) > 30
    for place, node in nodes:
        assert not {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "title"} & set(node), place
        assert "type" in node or node["x-kubernetes-preserve-unknown-fields"], place
        assert not ("properties" in node and "additionalProperties" in node), place
        assert node.get("default", 0) is not None, place


def test_only_what_kubernetes_itself_defines_and_json_are_free() -> None:
    free = {
        place
        for kind in KINDS
        if kind == "Function" or source_of(kind).__module__.startswith("trigger_sources.")
        for place, node in nodes_of(schema_of(kind), kind)
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    assert free == {
        "Function.spec.podTemplate",
        "Function.spec.resources.requests.*",
        "Function.spec.resources.limits.*",
        "CronTrigger.spec.payload",
    }


def test_every_kind_can_be_listed_scaled_and_read_at_a_glance() -> None:
    found = crds()
    assert [crd["spec"]["names"]["kind"] for crd in found] == list(KINDS)
    shorts = [short for crd in found for short in crd["spec"]["names"].get("shortNames", [])]
    assert shorts == ["fn", "cront", "httpt", "kt", "nt"]
    for crd in found:
        (version,) = crd["spec"]["versions"]
        assert crd["spec"]["names"]["categories"] == ["kubeirq"]
        assert [column["name"] for column in version["additionalPrinterColumns"]][:2] == ["Ready", "Reason"]
        conditions = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
        is_function = crd["spec"]["names"]["kind"] == "Function"
        assert ("scale" in version["subresources"]) == is_function


def test_the_examples_are_valid_on_a_cluster_but_for_their_files() -> None:
    documents = [
        document
        for file in sorted((ROOT / "examples").rglob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]
    assert {document["kind"] for document in documents} >= {"Function", "HTTPTrigger", "KafkaTrigger"}
    for document in documents:
        problems = [problem for _, problem in problems_of(spec_of(document["kind"]), document["spec"])]
        if document["kind"] == "Function":
            assert problems == ["path: a cluster cannot read your files; `kubeirq deploy` uploads them"]
            code = {"source": {"inline": "..."}}
            assert list(problems_of(spec_of("Function"), {**document["spec"], **code})) == []
        else:
            assert problems == []


@pytest.mark.parametrize(
    ("kind", "spec", "place", "problem"),
    [
        (
            "Function",
            {"source": {}},
            "spec.source",
            "exactly one of path, inline, files, url, configMap, image is needed",
        ),
        ("Function", {"source": {"url": "https://x"}}, "spec.source", "url and sha256 go together"),
        (
            "Function",
            {"source": {"inline": "", "authorization": {"name": "a", "key": "b"}}},
            "spec.source",
            "authorization goes with url only",
        ),
        ("Function", {"source": {"inline": ""}, "runtime": "perl5"}, "spec.runtime", "not one of"),
        (
            "Function",
            {"source": {"inline": ""}, "env": [{"name": "A", "valueFrom": {}}]},
            "spec.env[0].valueFrom",
            "exactly one of secretKeyRef, configMapKeyRef is needed",
        ),
        ("Function", {"source": {"inline": ""}, "timeoutSeconds": 0}, "spec.timeoutSeconds", "too small"),
        (
            "Function",
            {"source": {"inline": ""}, "scale": {"min": 2, "max": 1}},
            "spec.scale",
            "max: must not be less than min",
        ),
        ("Function", {"source": {"inline": ""}, "sorce": 1}, "spec.sorce", "unknown"),
        ("KafkaTrigger", {"topics": ["a"]}, "spec", "exactly one of target, function, functionSelector, url is needed"),
        (
            "KafkaTrigger",
            {"function": "f", "topics": ["a"], "delivery": {"backoffSeconds": 2, "backoffMaxSeconds": 1}},
            "spec.delivery",
            "backoffMaxSeconds: must not be less than backoffSeconds",
        ),
        (
            "KafkaTrigger",
            {"function": "f", "topics": ["a"], "reply": {}},
            "spec.reply",
            "exactly one of kafka, nats, function, url is needed",
        ),
        ("KafkaTrigger", {"functionSelector": {}, "topics": ["a"]}, "spec.functionSelector.matchLabels", "required"),
        ("CronTrigger", {"function": "f"}, "spec", "exactly one of schedule, at is needed"),
        (
            "NATSTrigger",
            {"function": "f", "subject": "a", "key": {}},
            "spec.key",
            "exactly one of subjectToken, header is needed",
        ),
        ("HTTPTrigger", {"function": "f", "methods": ["get"]}, "spec.methods[0]", "not one of"),
        (
            "HTTPTrigger",
            {"function": "f", "auth": {"basic": {"username": "u"}}},
            "spec.auth.basic",
            "username and password go together",
        ),
        (
            "CronTrigger",
            {"function": "f", "schedule": "* * *"},
            "spec.schedule",
            "five fields, six with seconds first, or an alias as @hourly are needed",
        ),
        (
            "CronTrigger",
            {"function": "f", "at": "2030-01-01T00:00:00"},
            "spec.at",
            "a time in RFC 3339 with its zone is needed, as 2030-01-31T09:00:00Z",
        ),
        (
            "KafkaTrigger",
            {"function": "f", "topics": ["a b"]},
            "spec.topics",
            "a topic is letters, digits, ., _ and -, at most 249",
        ),
        (
            "KafkaTrigger",
            {"function": "f", "topics": ["a"], "brokers": ["a"]},
            "spec.brokers",
            BROKER_RULE,
        ),
        (
            "NATSTrigger",
            {"function": "f", "subject": "a", "servers": ["http://x"]},
            "spec.servers",
            SERVER_RULE,
        ),
        (
            "NATSTrigger",
            {"function": "1st", "subject": "a"},
            "spec.function",
            FUNCTION_NAME_RULE,
        ),
        (
            "NATSTrigger",
            {"function": "f", "subject": "a", "reply": {"function": "a.b"}},
            "spec.reply.function",
            FUNCTION_NAME_RULE,
        ),
        (
            "NATSTrigger",
            {"function": "f", "subject": "a", "reply": {"kafka": {"topic": "t", "brokers": ["a"]}}},
            "spec.reply.kafka.brokers",
            BROKER_RULE,
        ),
        (
            "KafkaTrigger",
            {"function": "f", "topics": ["a"], "start": "beginning"},
            "spec.start",
            "earliest, latest, or a time in RFC 3339 with its zone is needed",
        ),
        (
            "NATSTrigger",
            {"function": "f", "subject": "a..b"},
            "spec.subject",
            "tokens without blanks, joined by dots, are needed; > at the end only",
        ),
        (
            "HTTPTrigger",
            {"function": "f", "host": "http://shop.example"},
            "spec.host",
            "a name without scheme, port, path or * is needed, as shop.example",
        ),
        ("Function", {"source": {"inline": ""}, "handler": "create"}, "spec.handler", "write module.function"),
        (
            "HTTPTrigger",
            {"function": "f", "expose": {}},
            "spec.expose",
            "exactly one of ingress, httpRoute is needed",
        ),
        (
            "HTTPTrigger",
            {"function": "f", "expose": {"httpRoute": {}}},
            "spec.expose.httpRoute.parentRefs",
            "required",
        ),
        (
            "HTTPTrigger",
            {"functionSelector": {"matchLabels": {"a": "b"}}, "expose": BY_INGRESS},
            "spec",
            "function: with expose requests go to one function's Service: its name is needed, no selector and no url",
        ),
        (
            "HTTPTrigger",
            {"function": "f", "expose": BY_INGRESS, "keyHeader": "x-key"},
            "spec",
            "keyHeader: only the fabric's gateway can do this, and with expose requests do not pass it;"
            " leave out keyHeader or expose",
        ),
        (
            "HTTPTrigger",
            {"function": "f", "expose": BY_INGRESS, "methods": ["GET"]},
            "spec",
            "methods: an Ingress lets every method pass; leave out methods, or use expose.httpRoute",
        ),
    ],
)
def test_what_the_model_refuses_a_cluster_refuses_at_the_same_place(
    kind: str, spec: dict[str, Any], place: str, problem: str
) -> None:
    with pytest.raises(ValidationError):
        model_of(kind).model_validate(spec)
    assert list(problems_of(spec_of(kind), spec)) == [(place, problem)]


EXPOSED: dict[str, list[Any]] = {
    "expose": [
        BY_INGRESS,
        {"ingress": {"pathType": "Exact"}},
        BY_ROUTE,
        BY_ROUTE_WITH_HOST,
        {**BY_INGRESS, **BY_ROUTE},
        {},
        None,
    ],
    "host": ["shop.example", None],
    "path": [
        "/",
        "/a/b",
        "/a/",
        "/a/{rest...}",
        "/{rest...}",
        "/a/{id}",
        "/a/{id}/{rest...}",
        "/a//b",
        "/caf\u00e9",
        None,
    ],
    "methods": [["POST"], ["GET", "POST"]],
    "delivery": [
        {},
        {"attempts": 1},
        {"attempts": 2},
        {"attempts": None},
        {"maxAgeSeconds": None},
        {"timeoutSeconds": 30},
    ],
    "answer": ["function", "accepted"],
    "filter": ["true", None],
    "filterError": ["deadLetter", "drop"],
    "concurrency": [16, 17],
    "ordering": ["key", None],
    "bodyLimitBytes": [1024 * 1024, 0],
    "suspend": [False, True],
}
PARTS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "KafkaTrigger": (
        {},
        {
            "target": [{"function": "f"}, {"url": "http://x"}, {"selector": {"matchLabels": {"a": "b"}}}, {}],
            "function": ["f", ""],
            "functionSelector": [{"matchLabels": {"a": "b"}}, {"matchLabels": {}}],
            "url": ["http://x", "ftp://x"],
            "topics": [["a"], [], ["a.b_c-D1"], ["a b"]],
            "brokers": [["kafka:9092", "[::1]:9092"], ["kafka"], ["kafka:"]],
            "start": [
                "earliest",
                "latest",
                "first",
                "2030-01-01T00:00:00Z",
                "2030-01-01 00:00+01:00",
                "2030-01-01T00:00",
            ],
            "topicPattern": ["a.*", None],
            "reply": [{"kafka": {"topic": "t"}}, {"function": "g", "url": "http://x"}, None],
            "delivery": [{"maxAgeSeconds": None}, {"attempts": 0}, {"holdAfter": None, "attempts": None}],
        },
    ),
    "CronTrigger": (
        {"function": "f"},
        {
            "schedule": [
                *("@hourly", "@Daily", "0 0 * * MON-FRI", "*/5 0-9 1,15 * * 5#2", "0 0 L * ?", "@reboot", "* * *", "x"),
                None,
            ],
            "at": ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00.5+01:00", "2030-01-01T00:00:00", "tomorrow", None],
            "timeZone": ["Europe/Berlin", "Etc/GMT+1", "Europe Berlin"],
            "payload": [None, 1, "x", [1, {"a": None}], {"a": {}}],
            "jitterSeconds": [0, -1, 3.5],
        },
    ),
    "NATSTrigger": (
        {"function": "f"},
        {
            "subject": ["a", "a.*.b", "a.>", ">", "a..b", ".a", "a.>.b", "a b", ""],
            "start": ["all", "new", "17", "2030-01-01T00:00:00Z", "first", "-1"],
            "stream": ["ORDERS", "a.b", "a b", None],
            "durable": ["it", "*", None],
            "queue": ["it", "a/b", None],
        },
    ),
    "HTTPTrigger": (
        {"function": "f"},
        {
            "path": [
                "/",
                "/a/{id}",
                "/a/{id}/b/{rest...}",
                "/a b",
                "a",
                "/a/x{id}",
                "/{rest...}/a",
                "/a?b",
                "/café",
                None,
            ],
            "host": ["shop.example", "http://shop.example", "shop.example:80", "*.example", None],
            "auth": [
                {},
                {"bearer": {"tokens": [A_SECRET]}},
                {"bearer": {"tokens": []}},
                {"basic": {}},
                {"basic": {"users": A_SECRET}},
                {"basic": {"users": A_SECRET, "username": "u", "password": A_SECRET}},
            ],
            "methods": [["GET"], [], ["POST"]],
            "cors": [{"origins": ["*"]}, {}, None],
        },
    ),
    "Function": (
        {"resources": {"limits": {"cpu": 1}}},  # without them scale.max is refused by the controller, not before
        {
            "source": [
                {"inline": ""},
                {"url": "https://x", "sha256": "0" * 64},
                {"inline": "", "image": "x"},
                {"configMap": {"name": "x"}},
            ],
            "dependencies": ["x", None],
            "handler": ["a.b", "a.b.c", "", "a", "a..b", "a.b c"],
            "startup": ["a.b", "a", None],
            "concurrency": [1, 0, None],
            "resources": [{"limits": {"cpu": 1, "memory": "64Mi"}}, {"requests": {"cpu": 0.5}}],
            "scale": [{}, {"min": 2, "max": 1}, {"min": 2, "max": 2}, {"max": 3}, {"max": None}, {"min": 0}],
        },
    ),
}


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_model_and_definition_judge_alike(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(PARTS)))
    always, parts = PARTS[kind]
    optional = {name: st.sampled_from(values) for name, values in parts.items()}
    judged_alike(kind, {**always, **data.draw(st.fixed_dictionaries({}, optional=optional))})


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_model_and_definition_judge_alike_what_is_exposed(data: st.DataObject) -> None:
    """With one or two further fields: more of them have nearly always one that is refused."""
    names = data.draw(st.lists(st.sampled_from(sorted(EXPOSED.keys() - {"expose"})), max_size=2))
    drawn = {name: data.draw(st.sampled_from(EXPOSED[name])) for name in ("expose", *names)}
    target = data.draw(st.sampled_from([{"function": "f"}, {"target": {"function": "f"}}, {"url": "http://x"}]))
    judged_alike("HTTPTrigger", {**target, **drawn})


def judged_alike(kind: str, spec: dict[str, Any]) -> None:
    try:
        model_of(kind).model_validate(spec)
    except ValidationError:
        assert list(problems_of(spec_of(kind), spec)) != []
    else:
        assert list(problems_of(spec_of(kind), spec)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_api_server_fills_in_is_what_the_model_would(kind: str) -> None:
    """Its defaults are stored with the object: they must neither change what it means nor make it invalid."""
    least = {
        "Function": {"source": {"inline": ""}},
        "KafkaTrigger": {"function": "f", "topics": ["a"], "delivery": {}, "security": {"tls": {}}},
        "NATSTrigger": {"url": "http://x", "subject": "a"},
        "CronTrigger": {"target": {"function": "f"}, "schedule": "@hourly"},
        "HTTPTrigger": {"function": "f", "delivery": {}, "cors": {"origins": ["*"]}},
    }.get(kind)
    if least is None:
        pytest.skip(f"{kind} is a plugin's")
    filled = with_defaults(spec_of(kind), least)
    assert filled != least
    assert list(problems_of(spec_of(kind), filled)) == []
    assert model_of(kind).model_validate(filled) == model_of(kind).model_validate(least)


def test_a_null_that_means_something_is_not_filled_in() -> None:
    delivery = spec_of("KafkaTrigger")["properties"]["delivery"]["properties"]
    assert delivery["maxAgeSeconds"] == {
        "type": "number",
        "default": 3600,
        "nullable": True,
        "minimum": 0,
        "exclusiveMinimum": True,
        "description": "No attempt begins later than this after the first one; null: no limit",
    }


def test_a_plugins_kind_is_in_its_own_group_and_has_what_all_triggers_have() -> None:
    class RedisTrigger(TriggerSource):
        """Calls a function for each entry of a stream."""

        api_group: ClassVar[str] = "example.org"
        stream: str
        labels: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it

    found = definition_of("RedisTrigger", RedisTrigger)
    assert found["metadata"]["name"] == "redistriggers.example.org"
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert schema["description"] == "Calls a function for each entry of a stream."
    spec = schema["properties"]["spec"]
    assert spec["required"] == ["stream"]
    assert spec["properties"]["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert list(problems_of(spec, {"function": "f", "stream": "s", "delivery": {"attempts": 3}})) == []


def test_a_plugins_own_url_is_no_target() -> None:
    class FeedTrigger(TriggerSource):
        """Calls a function for each entry of a feed."""

        url: str

    (version,) = definition_of("FeedTrigger", FeedTrigger)["spec"]["versions"]
    assert version["additionalPrinterColumns"][2]["jsonPath"] == ".spec['function','functionSelector','target']"
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert list(problems_of(spec, {"function": "f", "url": "gopher://x"})) == []
    assert [problem for _, problem in problems_of(spec, {"url": "gopher://x"})] == [
        "exactly one of target, function, functionSelector is needed"
    ]


def test_a_union_is_named_with_its_field_and_the_way_out() -> None:
    class Odd(BaseModel):
        inner: dict[str, int | str]

    with pytest.raises(NotStructural, match=r"spec\.inner\.\*: anyOf: .* optional fields of one object"):
        structural(Odd, lambda _: {})


class Tree(BaseModel):
    branches: list["Tree"] = []


def test_a_model_that_contains_itself_is_named() -> None:
    with pytest.raises(NotStructural, match=r"spec\.branches\[\].*Tree contains itself"):
        structural(Tree, lambda _: {})


# --- an API server's judgement, in small


def problems_of(schema: Schema, value: Any, place: str = "spec") -> Iterator[tuple[str, str]]:
    """Place and problem of each value that an API server would refuse; rules are checked where the rest is valid."""
    if value is None and schema.get("nullable"):
        return
    if "type" in schema and (
        not isinstance(value, TYPES[schema["type"]]) or (type(value) is bool) != (schema["type"] == "boolean")
    ):
        yield place, f"no {schema['type']}"
        return
    value = with_defaults(schema, value)
    inner = [*_fields(schema, value, place), *_items(schema, value, place), *_limits(schema, value, place)]
    yield from inner
    if not inner:
        for rule in schema.get("x-kubernetes-validations", []):
            if rule_program(rule["rule"]).eval(data={"self": value}).value() is not True:
                yield place, rule["message"]


@cache
def rule_program(text: str) -> cel.Expression:
    return cel.NewEnv(variables={"self": cel.Type.DYN}).compile(text)


def _fields(schema: Schema, value: Any, place: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict) or schema.get("type") != "object":
        return
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{place}.{name}", "required"
    for name, found in value.items():
        if (part := properties.get(name, schema.get("additionalProperties"))) is not None:
            yield from problems_of(part, found, f"{place}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{place}.{name}", "unknown"


def _items(schema: Schema, value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and "items" in schema:
        for index, found in enumerate(value):
            yield from problems_of(schema["items"], found, f"{place}[{index}]")


def _limits(schema: Schema, value: Any, place: str) -> Iterator[tuple[str, str]]:
    if "enum" in schema and value not in schema["enum"]:
        yield place, "not one of"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        yield place, "pattern"
    most = next((schema[name] for name in ("maxLength", "maxItems", "maxProperties") if name in schema), None)
    if most is not None and isinstance(value, (str, list, dict)) and len(value) > most:
        yield place, "too long"
    least = next((schema[name] for name in ("minLength", "minItems", "minProperties") if name in schema), 0)
    if isinstance(value, (str, list, dict)) and len(value) < least:
        yield place, "too short"
    if "maximum" in schema and (
        value > schema["maximum"] or (schema.get("exclusiveMaximum") and value == schema["maximum"])
    ):
        yield place, "too large"
    if "minimum" in schema and (
        value < schema["minimum"] or (schema.get("exclusiveMinimum") and value == schema["minimum"])
    ):
        yield place, "too small"


def with_defaults(schema: Schema, value: Any) -> Any:
    """With the defaults of what is absent, as an API server stores it."""
    if isinstance(value, dict) and "properties" in schema:
        filled = {name: part["default"] for name, part in schema["properties"].items() if "default" in part}
        given_ = {name: with_defaults(schema["properties"].get(name, {}), found) for name, found in value.items()}
        return {**filled, **given_}
    return value


def nodes_of(schema: Schema, place: str) -> Iterator[tuple[str, Schema]]:
    yield place, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes_of(part, f"{place}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from nodes_of(schema[key], f"{place}{mark}")


@cache
def schema_of(kind: str) -> Schema:
    found: Schema = crd_of(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def spec_of(kind: str) -> Schema:
    found: Schema = schema_of(kind)["properties"]["spec"]
    return found


def model_of(kind: str) -> type[FunctionSpec] | type[TriggerSource]:
    return FunctionSpec if kind == "Function" else source_of(kind)


def test_a_listing_tells_triggers_apart_by_what_calls_them() -> None:
    columns = {
        kind: [column["name"] for column in crd_of(kind)["spec"]["versions"][0]["additionalPrinterColumns"]]
        for kind in ("CronTrigger", "KafkaTrigger", "NATSTrigger", "HTTPTrigger")
    }
    assert columns["CronTrigger"] == ["Ready", "Reason", "Target", "Schedule", "Suspended", "Message", "Age"]
    assert "Topics" in columns["KafkaTrigger"]
    assert "Subject" in columns["NATSTrigger"]
    assert "Address" in columns["HTTPTrigger"]
