"""The rights of the chart's service accounts and of its roles for users, on a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from servers.controllers import Cluster, resource
from servers.helm import RELEASE, account_of, installed, rendered, server_for_the_chart, started
from servers.kubernetes import APIServer, KubectlError
from servers.kubernetes_objects import connected, kinds_of

PLUGINS = {
    "plugins": [
        {"kind": "RedisTrigger", "group": "example.com", "image": "example/redis:1"},
        {"kind": "MailTrigger", "image": "example/mail:1"},
    ]
}
NARROWED = {"watchNamespace": "apps", "secretNamespaces": ["apps", RELEASE]}

# All rights of the service accounts: verbs by resource. RIGHTS are those in every namespace, or in the
# one that is watched; DEFINITIONS in every one, LEASES in the release's, SECRETS in those of secretNamespaces
MADE = "create delete get list patch watch"
SEEN = "get list watch"
LEASES = {"coordination.k8s.io/leases": "create get list update watch"}
FOLLOWED = "list watch"
SECRETS = {"secrets": FOLLOWED}
FINDS_PORT = {"services": "list"}  # everyone, in the release's namespace
EVENTS = {"events": "create get patch"}
DEFINITIONS = {"apiextensions.k8s.io/customresourcedefinitions": "list watch"}
FUNCTIONS = {
    **EVENTS,
    "kubeirq.dev/functions": SEEN,
    "kubeirq.dev/functions/status": "patch",
    "configmaps": MADE,
    "services": "create get list patch",
    "apps/deployments": "create get list patch watch",
    "autoscaling/horizontalpodautoscalers": "create delete get list patch",
    "policy/poddisruptionbudgets": "create delete get list patch",
    "networking.k8s.io/networkpolicies": "create delete get list patch",
    "apps/replicasets": "list",
    "pods": "list",
}


def of_trigger(resources: str) -> dict[str, str]:
    followed = {"discovery.k8s.io/endpointslices": FOLLOWED, "kubeirq.dev/functions": FOLLOWED}
    return {**EVENTS, **followed, resources: SEEN, f"{resources}/status": "patch"}


EXPOSED = {
    "networking.k8s.io/ingresses": MADE,
    "networking.k8s.io/networkpolicies": MADE,
    "gateway.networking.k8s.io/httproutes": MADE,
}
RIGHTS = {
    "functions": FUNCTIONS,
    "http": {**of_trigger("kubeirq.dev/httptriggers"), "kubeirq.dev/functions": SEEN, **EXPOSED},
    "cron": of_trigger("kubeirq.dev/crontriggers"),
    "kafka": of_trigger("kubeirq.dev/kafkatriggers"),
    "nats": of_trigger("kubeirq.dev/natstriggers"),
    "redis": of_trigger("example.com/redistriggers"),
    "mail": of_trigger("kubeirq.dev/mailtriggers"),
}
# Rights that the broad test does not use in each controller
RARE = {
    "events": "get patch",  # a repeated Event is counted
    "configmaps": "delete",  # code that no ReplicaSet refers to
    "networking.k8s.io/networkpolicies": "delete",  # once functions.networkPolicy is disabled
    "secrets": FOLLOWED,  # only its HTTPTrigger refers to a Secret
}
BUILT_IN = ("functions", "http", "cron", "kafka", "nats")
EVERYONE = "system:authenticated"  # has rights of its own: to ask what it may do


def resources_of(name: str) -> dict[str, dict[str, Any]]:
    """One resource of every kind, by kind, all with that name. Their brokers do not exist."""
    scaled = {"scale": {"min": 2, "max": 3}, "resources": {"requests": {"cpu": "1"}}}
    return {
        "Secret": {"stringData": {"users": "someone:secret"}},
        "Function": {"source": {"inline": "def handler(event, context): ..."}, **scaled},
        "HTTPTrigger": {"function": name, "auth": {"basic": {"users": {"name": name, "key": "users"}}}},
        "CronTrigger": {"function": name, "schedule": "* * * * * *"},
        "KafkaTrigger": {"function": name, "topics": ["a"], "brokers": ["127.0.0.1:1"]},
        "NATSTrigger": {"function": name, "subject": "a", "servers": ["nats://127.0.0.1:1"]},
    }


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with server_for_the_chart() as found:
        yield found


async def test_each_service_account_has_exactly_the_rights_that_it_needs(server: APIServer) -> None:
    async with installed(server, {**PLUGINS, "secretNamespaces": ["apps", RELEASE]}):
        for name, cluster in RIGHTS.items():
            secrets = {} if name == "functions" else SECRETS
            account = account_of(f"kubeirq-{name}")
            here = {**FINDS_PORT, **cluster, **DEFINITIONS, **LEASES, **secrets}
            assert await rights(server, account, RELEASE) == here, name
            assert await rights(server, account, "apps") == {**cluster, **DEFINITIONS, **secrets}, name
            assert await rights(server, account, "elsewhere") == {**cluster, **DEFINITIONS}, name
        assert await rights(server, account_of("kubeirq-store"), RELEASE) == FINDS_PORT
        await tries(server)


async def test_with_a_watched_namespace_there_are_no_rights_outside_of_it(server: APIServer) -> None:
    async with installed(server, NARROWED):
        for name in BUILT_IN:
            secrets = {} if name == "functions" else SECRETS
            replicas = {} if name == "functions" else {"discovery.k8s.io/endpointslices": FOLLOWED}
            account = account_of(f"kubeirq-{name}")
            assert await rights(server, account, RELEASE) == {**LEASES, **secrets, **replicas}, name
            assert await rights(server, account, "apps") == {**RIGHTS[name], **secrets}, name
            assert await rights(server, account, "elsewhere") == {}, name


async def test_the_view_and_edit_roles_include_functions_and_triggers(server: APIServer) -> None:
    async with installed(server, PLUGINS):
        for user, role in (("viewer", "view"), ("editor", "edit"), ("owner", "admin")):
            await server.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", "apps")
        binding = ("create", "rolebinding", "oncall", "--role=kubeirq-operator", "--user=oncall", "-n", RELEASE)
        await server.kubectl(*binding)
        kinds = ("functions", "httptriggers", "crontriggers", "kafkatriggers", "natstriggers", "mailtriggers")
        names = [*(f"kubeirq.dev/{kind}" for kind in kinds), "example.com/redistriggers"]

        for user in ("viewer", "owner"):  # a controller puts the roles together
            async with asyncio.timeout(20):
                while "kubeirq.dev/functions" not in await rights(server, user, "apps"):
                    await asyncio.sleep(0.1)
        admin = {"flows": "get", "lanes": "delete get update", "deadletters": "delete get update"}
        for user, verbs in (("viewer", {"flows": "get"}), ("editor", {**admin, "flows": "delete get update"})):
            found = await rights(server, user, "apps")
            for kind in (*kinds[1:], "redistriggers"):
                group = "example.com" if kind == "redistriggers" else "kubeirq.dev"
                seen = {name: found.get(f"{group}/{kind}/{name}") for name in admin}
                assert {name: text for name, text in seen.items() if text} == verbs, (user, kind)
            assert not {name for name in found if name.startswith("kubeirq.dev/functions/")} & {
                f"kubeirq.dev/functions/{name}" for name in admin
            }
        changes = "create delete deletecollection get list patch update watch"
        for user, verbs in (("viewer", SEEN), ("editor", changes), ("owner", changes)):
            found = await rights(server, user, "apps")
            assert {name: found.get(name) for name in names} == dict.fromkeys(names, verbs), user
            assert not {name for name in found if name.startswith("kubeirq.dev/") and name.endswith("/status")}
        assert "kubeirq.dev/functions/scale" in await rights(server, "editor", "apps")
        assert await rights(server, "oncall", "apps") == {}
        assert await rights(server, "oncall", RELEASE) == {**FINDS_PORT, "pods": SEEN, "pods/log": "get"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("name", "values"), [("wide", {"secretNamespaces": ["apps"]}), ("narrow", NARROWED)])
async def test_the_controllers_work_with_these_rights_use_each_of_them_and_request_no_others(
    server: APIServer, tmp_path: Path, name: str, values: dict[str, Any]
) -> None:
    async with installed(server, values), connected(server) as api:
        cluster = Cluster(server, tmp_path, api, await kinds_of(api))
        try:
            for deployment in await rendered(values):
                if deployment["kind"] == "Deployment":
                    await started(cluster, deployment)
            await cluster.apply(*(resource(kind, name, spec, "apps") for kind, spec in resources_of(name).items()))
            await until_told(cluster)
            await server.kubectl("get", "deployment,service,hpa,pdb", name, "-n", "apps")
            await server.kubectl("get", "networkpolicy", f"{name}-callers", "-n", "apps")
            for place, way in {"ingress": {}, "httpRoute": {"parentRefs": [{"name": "public"}]}}.items():
                spec = {"function": name, "path": f"/{name}/{place}", "expose": {place: way}}
                await cluster.apply(resource("HTTPTrigger", name, spec, "apps"))
                for made in (f"{place}/{name}", f"networkpolicy/{name}-exposed"):
                    await server.kubectl("wait", "--for=create", made, "-n", "apps", "--timeout=20s")
            await cluster.apply(resource("HTTPTrigger", name, {"function": name, "path": f"/{name}"}, "apps"))
            await server.kubectl("wait", "--for=delete", f"httpRoute/{name}", "-n", "apps", "--timeout=20s")
            await cluster.apply(resource("Function", name, {"source": {"inline": "other = 1"}}, "apps"))
            await server.kubectl("wait", "--for=delete", f"hpa/{name}", f"pdb/{name}", "-n", "apps", "--timeout=20s")
        finally:
            for controller in cluster.controllers:
                await controller.kill()
            await server.kubectl("delete", "kubeirq,secret", "--all", "-n", "apps")
        users = [account_of(f"kubeirq-{component}") for component in BUILT_IN]
        events = [event for event in server.audit() if event["user"]["username"] in users]
        assert {event["user"]["username"] for event in events} == set(users)
        assert [event["requestURI"] for event in events if event["responseStatus"]["code"] in (401, 403)] == []
        for component in BUILT_IN:
            secrets = {} if component == "functions" else SECRETS
            granted = {**RIGHTS[component], **LEASES, **secrets, **({} if "watchNamespace" in values else DEFINITIONS)}
            used = used_by(events, account_of(f"kubeirq-{component}"))
            unused = {place: set(verbs.split()) - used.get(place, set()) for place, verbs in granted.items()}
            rare = {place: set(verbs.split()) for place, verbs in RARE.items()}
            assert {place: verbs for place, verbs in unused.items() if verbs - rare.get(place, set())} == {}, component


def used_by(events: list[dict[str, Any]], user: str) -> dict[str, set[str]]:
    """The verbs that this user's requests needed, by resource. A server-side apply of a new object needs create too."""
    found: dict[str, set[str]] = {}
    for event in events:
        where = event.get("objectRef")
        if event["user"]["username"] == user and where:
            parts = (where.get("apiGroup"), where["resource"], where.get("subresource"))
            is_new = event["verb"] == "patch" and event["responseStatus"]["code"] == 201
            verbs = {event["verb"], "create"} if is_new else {event["verb"]}
            found.setdefault("/".join(part for part in parts if part), set()).update(verbs)
    return found


async def until_told(cluster: Cluster) -> None:
    """Returns when every resource has a status."""
    untold = {kind for kind in resources_of("a") if kind != "Secret"}
    try:
        async with asyncio.timeout(60):
            while untold:
                for kind in set(untold):
                    listed = await cluster.get(kind, namespace="apps")
                    if any(found.get("status", {}).get("conditions") for found in listed["items"]):
                        untold.remove(kind)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{untold}\n{cluster.logs()}") from None


async def rights(server: APIServer, user: str, namespace: str) -> dict[str, str]:
    """The rights of the user there beyond those of every user: verbs by resource."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    groups = [f"--as-group={group}" for group in (EVERYONE, "system:serviceaccounts")]
    asked = ("create", "--raw", path, "-f", "-", f"--as={user}", *groups)
    answer = json.loads(await server.kubectl(*asked, input=json.dumps(review)))
    found: dict[str, set[str]] = {}
    for rule in answer["status"]["resourceRules"]:
        if rule.get("resourceNames"):  # everyone may reach the admin port, which checks each request
            assert (rule["resources"], rule["verbs"]) == (["services/proxy"], ["get", "create"])
            assert all(name.endswith("-admin:admin") for name in rule["resourceNames"])
            continue
        for group in rule["apiGroups"]:
            for name in rule["resources"]:
                found.setdefault(f"{group}/{name}" if group else name, set()).update(rule["verbs"])
    asking = ("authorization.k8s.io/", "authentication.k8s.io/")
    return {name: " ".join(sorted(verbs)) for name, verbs in found.items() if not name.startswith(asking)}


async def tries(server: APIServer) -> None:
    """Checks with real requests too, because an access review may differ from them."""
    kafka, functions = (f"--as={account_of(name)}" for name in ("kubeirq-kafka", "kubeirq-functions"))
    await server.kubectl("get", "secrets", "-n", "apps", kafka)
    await server.kubectl("get", "kafkatriggers", "-A", kafka)
    await server.kubectl("create", "configmap", "a", "-n", "apps", functions)
    for refused in (
        ("get", "secrets", "-n", "elsewhere", kafka),
        ("get", "secrets", "-A", kafka),
        ("get", "natstriggers", "-A", kafka),
        ("create", "configmap", "b", "-n", "apps", kafka),
        ("get", "secrets", "-n", RELEASE, functions),
        ("create", "serviceaccount", "b", "-n", "apps", functions),
        ("create", "clusterrolebinding", "b", "--clusterrole=cluster-admin", "--user=me", functions),
        ("get", "nodes", functions),
    ):
        with pytest.raises(KubectlError, match=r"cannot (list|create|get) resource"):
            await server.kubectl(*refused)
