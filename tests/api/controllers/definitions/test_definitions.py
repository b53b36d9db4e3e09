"""A real API server accepts the definitions without a warning, and validates resources by them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.kubernetes import APIServer, KubectlError, api_server

from controllers.definitions.crds import crds, yaml_of

ORDERS = Path(__file__).resolve().parents[4] / "examples" / "orders"
INGRESS: dict[str, Any] = {"ingress": {}}
REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("Function", {"source": {"path": "a.py"}}, "spec.source: .*`kubeirq deploy` uploads them"),
    ("Function", {"source": {"inline": "", "image": "x"}}, "spec.source: .*exactly one of path, inline, files, url"),
    (
        "Function",
        {"source": {"inline": ""}, "env": [{"name": "A", "valueFrom": {}}]},
        r"spec.env\[0\].valueFrom: .*one",
    ),
    ("Function", {"source": {"inline": ""}, "sorce": 1}, "spec.sorce: field not declared in schema"),
    ("KafkaTrigger", {"topics": ["a"]}, "spec: .*exactly one of target, function, functionSelector, url is needed"),
    ("KafkaTrigger", {"function": "f", "url": "http://x", "topics": ["a"]}, "spec: .*exactly one of target, function"),
    (
        "KafkaTrigger",
        {"function": "f", "topics": ["a"], "delivery": {"backoffSeconds": 90}},
        "not be less than backoff",
    ),
    ("NATSTrigger", {"function": "f", "subject": "a", "reply": {}}, "spec.reply: .*exactly one of kafka, nats"),
    ("CronTrigger", {"function": "f"}, "spec: .*exactly one of schedule, at is needed"),
    ("CronTrigger", {"function": "f", "schedule": "* * *"}, "spec.schedule: .*five fields, six with seconds first"),
    ("CronTrigger", {"function": "f", "at": "tomorrow"}, "spec.at: .*a time in RFC 3339 with its zone is needed"),
    ("KafkaTrigger", {"function": "f", "topics": ["a b"]}, "spec.topics: .*a topic is letters, digits"),
    ("NATSTrigger", {"function": "f", "subject": "a..b"}, "spec.subject: .*tokens without blanks, joined by dots"),
    (
        "NATSTrigger",
        {"function": "f", "subject": "a", "servers": ["http://x"]},
        "spec.servers: .*host or host:port each",
    ),
    (
        "CronTrigger",
        {"function": "1st", "schedule": "@daily"},
        "spec.function: .*a Function's name is lower-case letters",
    ),
    ("HTTPTrigger", {"function": "f", "path": "/x{id}"}, "spec.path: .*parameters only as whole segments"),
    ("Function", {"source": {"inline": ""}, "handler": "create"}, "spec.handler: .*write module.function"),
    ("HTTPTrigger", {"function": "f", "methods": ["get"]}, r"spec.methods\[0\]: Unsupported value"),
    ("HTTPTrigger", {"function": "f", "expose": {}}, "spec.expose: .*exactly one of ingress, httpRoute is needed"),
    ("HTTPTrigger", {"url": "http://x", "expose": INGRESS}, "function: with expose requests go to one function's"),
    (
        "HTTPTrigger",
        {"function": "f", "expose": INGRESS, "path": "/a/{id}"},
        "path: an Ingress or HTTPRoute takes only",
    ),
    ("HTTPTrigger", {"function": "f", "expose": INGRESS, "methods": ["GET"]}, "methods: an Ingress lets every method"),
    (
        "HTTPTrigger",
        {"function": "f", "expose": INGRESS, "delivery": {"attempts": 3}},
        "delivery: only the fabric's gateway can do this, .* leave out delivery or expose",
    ),
    (
        "HTTPTrigger",
        {"function": "f", "expose": {"ingress": {"pathType": "Exact"}}, "path": "/a/{rest...}"},
        "expose.ingress.pathType: {name...} at the path's end is a Prefix",
    ),
    (
        "HTTPTrigger",
        {
            "function": "f",
            "host": "a.b",
            "expose": {"httpRoute": {"parentRefs": [{"name": "g"}], "hostnames": ["c.d"]}},
        },
        "host and expose.httpRoute.hostnames: one of them",
    ),
)
NO_NAMES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Function", "1st", {"source": {"inline": ""}}),
    ("Function", "my.function", {"source": {"inline": ""}}),
    ("KafkaTrigger", "a" * 64, {"function": "f", "topics": ["a"]}),
)


async def test_definitions_validate_resources_set_defaults_and_scale() -> None:
    async with api_server() as server:
        await server.kubectl("apply", "--server-side", "-f", "-", input=yaml_of(crds()))
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        for found in json.loads(await server.kubectl("get", "crd", "-o", "json"))["items"]:
            types = {condition["type"] for condition in found["status"]["conditions"]}
            assert types == {"NamesAccepted", "Established"}, found["metadata"]["name"]  # no NonStructuralSchema

        for kind, spec, text in REFUSED:
            with pytest.raises(KubectlError, match=text):
                await apply(server, document(kind, "bad", spec))

        for kind, name, spec in NO_NAMES:
            with pytest.raises(KubectlError, match=r"metadata.name: .*lower-case letters, digits and -, .*at most 63"):
                await apply(server, document(kind, name, spec))

        for example in yaml.safe_load_all((ORDERS / "orders.yaml").read_text()):
            code = {"source": {"inline": ""}} if example["kind"] == "Function" else {}
            await apply(server, {**example, "spec": {**example["spec"], **code}})

        # a null that means "no limit" stays; absent fields get defaults; a null beside a value is not a second value
        delivery = {"maxAgeSeconds": None}
        await apply(
            server, document("KafkaTrigger", "endless", {"url": "http://x", "topics": ["a"], "delivery": delivery})
        )
        kept = (await get(server, "kt", "endless"))["spec"]["delivery"]
        assert (kept["maxAgeSeconds"], kept["backoffSeconds"]) == (None, 0.5)
        await apply(
            server, document("CronTrigger", "once", {"url": "http://x", "at": "2030-01-01T00:00:00Z", "schedule": None})
        )

        # defaults of the server do not count as features that only the gateway has
        exposed = {"function": "f", "path": "/files/{rest...}", "delivery": {}, "answer": "function", "expose": INGRESS}
        await apply(server, document("HTTPTrigger", "exposed", exposed))
        kept = (await get(server, "httpt", "exposed"))["spec"]
        assert (kept["methods"], kept["concurrency"], kept["delivery"]["backoffSeconds"]) == (["POST"], 16, 0.5)
        await apply(server, document("HTTPTrigger", "exposed", kept))

        spec = {"source": {"inline": ""}, "resources": {"requests": {"cpu": 0.5, "memory": "64Mi"}}}
        await apply(server, document("Function", "many", spec))
        await server.kubectl("scale", "fn/many", "--replicas=3")
        assert (await get(server, "fn", "many"))["spec"]["scale"]["min"] == 3
        listed = await server.kubectl("get", "kubeirq")
        assert {"kafkatrigger.kubeirq.dev/orders", "function.kubeirq.dev/many"} <= set(listed.split())


async def apply(server: APIServer, resource: dict[str, Any]) -> None:
    await server.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(resource))


async def get(server: APIServer, kind: str, name: str) -> Any:
    return json.loads(await server.kubectl("get", kind, name, "-o", "json"))


def document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kubeirq.dev/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
