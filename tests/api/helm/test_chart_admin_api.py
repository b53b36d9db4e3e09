"""The admin API behind the API server: each user gets what its rights in a namespace allow, through the chart."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from servers.controllers import Cluster, Controller, condition, resource
from servers.helm import RELEASE, installed, rendered, server_for_the_chart
from servers.kubernetes import APIServer
from servers.kubernetes_objects import connected, kinds_of
from servers.nats import NATSServer, nats_server
from servers.ports import free_port, own_address

from controllers.triggers.admin_port import AdminPort
from controllers.triggers.admin_rights import Need, Rights, User
from controllers.triggers.served import ServedTriggers
from controllers.triggers.shared_certificate import SharedCertificate
from kubeirq.fabric_client import Refused
from kubeirq.on_cluster.client import ClusterClient
from kubeirq.on_cluster.connection import AccessDenied, connect
from kubeirq.on_cluster.controller_client import ControllerClient
from trigger_sources.observe.admin import application_of, json_answer, served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

VALUES = {"secretNamespaces": ["apps"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with server_for_the_chart() as found:
        yield found


async def certificate_of(folder: Path) -> Path:
    """The certificate that the chart makes, as a pod has it."""
    (secret,) = [
        found
        for found in await rendered(VALUES)
        if (found["kind"], found["metadata"]["name"]) == ("Secret", "kubeirq-admin")
    ]
    place = folder / "certificate"
    place.mkdir()
    for name, text in secret["data"].items():
        (place / name).write_bytes(base64.b64decode(text))
    return place


async def started(cluster: Cluster, nats: NATSServer) -> Controller:
    """The chart's controller of NATS triggers, as a process here; the chart's Service leads to it."""
    (deployment,) = [
        found
        for found in await rendered(VALUES)
        if (found["kind"], found["metadata"]["name"]) == ("Deployment", "kubeirq-nats")
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    said = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    assert said["KUBEIRQ_ADMIN_PEERS"] == "kubeirq-nats-admin"
    login = await cluster.server.kubeconfig_of(
        f"system:serviceaccount:{RELEASE}:kubeirq-nats", "system:serviceaccounts"
    )
    port = free_port()
    own = {
        "KUBECONFIG": str(login),
        "KUBEIRQ_NAMESPACE": RELEASE,
        "KUBEIRQ_PORT": str(free_port()),
        "KUBEIRQ_ADMIN_SOCKET": str(cluster.folder / "admin.sock"),
        "KUBEIRQ_ADMIN_CERTIFICATE": str(await certificate_of(cluster.folder)),
        "KUBEIRQ_ADMIN_PORT": str(port),
        "KUBEIRQ_ADMIN_PEERS": "127.0.0.1",
        "KUBEIRQ_NATS_SERVERS": nats.url,
        "KUBEIRQ_STORE_NATS_SERVERS": "",
    }
    controller = await cluster.start(*container["args"], **{**said, **own})
    await pod_here(cluster, deployment, port)
    return controller


async def pod_here(cluster: Cluster, deployment: dict[str, Any], port: int) -> None:
    """A pod of the Deployment that is ready at this machine's address, so that the chart's Service leads here."""
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = [{**found, "containerPort": port} for found in container["ports"] if found["name"] == "admin"]
    spec = {**template["spec"], "containers": [{**container, "ports": ports}]}
    metadata = {"name": "here", "namespace": RELEASE, "labels": template["metadata"]["labels"]}
    await cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    address = own_address()
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    await cluster.server.kubectl("patch", "pod", "here", "-n", RELEASE, *patch)
    name = "kubeirq-nats-admin"
    drop = json.dumps([{"op": "remove", "path": "/spec/selector"}])
    await cluster.server.kubectl("patch", "service", name, "-n", RELEASE, "--type=json", "-p", drop)
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name, "namespace": RELEASE},
        "subsets": [
            {
                "addresses": [{"ip": address, "targetRef": {"kind": "Pod", "name": "here", "namespace": RELEASE}}],
                "ports": [{"name": "admin", "port": port}],
            }
        ],
    }
    await cluster.apply(endpoints)


async def login_of(server: APIServer, folder: Path, name: str) -> Path:
    """A kubeconfig with the token of a new service account in the namespace apps."""
    await server.kubectl("create", "serviceaccount", name, "-n", "apps")
    token = (await server.kubectl("create", "token", name, "-n", "apps")).strip()
    found = json.loads((await server.kubeconfig_of("nobody")).read_text())
    found["users"][0]["user"] = {"token": token}
    path = folder / f"{name}.kubeconfig"
    path.write_text(json.dumps(found))
    return path


@asynccontextmanager
async def client(login: Path, namespace: str = "apps") -> AsyncIterator[tuple[ClusterClient, ControllerClient]]:
    async with connect(None, login, namespace) as cluster:
        yield ClusterClient(cluster, None), ControllerClient(cluster, None)


async def allowed(server: APIServer, user: str, verb: str, what: str, namespace: str) -> bool:
    try:
        await server.kubectl("auth", "can-i", verb, what, "-n", namespace, f"--as=system:serviceaccount:apps:{user}")
    except Exception:
        return False
    return True


async def test_a_team_handles_the_dead_letters_of_its_own_namespace_and_of_no_other(
    server: APIServer, tmp_path: Path
) -> None:
    async with installed(server, VALUES), connected(server) as api, nats_server() as nats:
        cluster = Cluster(server, tmp_path, api, await kinds_of(api))
        try:
            await started(cluster, nats)
            spec = {"subject": "a", "stream": "A", "createStream": True, "url": "http://127.0.0.1:1/"}
            for namespace in ("apps", "elsewhere"):
                found = {**spec, "stream": namespace, "subject": namespace}
                await cluster.apply(resource("NATSTrigger", "t", found, namespace))
            logins = {name: await login_of(server, tmp_path, name) for name in ("editor", "viewer", "nobody", "oncall")}
            for name, role in (("editor", "edit"), ("viewer", "view")):
                account = f"--serviceaccount=apps:{name}"
                await server.kubectl("create", "rolebinding", name, f"--clusterrole={role}", account, "-n", "apps")
            await server.kubectl(
                "create",
                "clusterrolebinding",
                "oncall",
                "--clusterrole=kubeirq-operator",
                "--serviceaccount=apps:oncall",
            )
            try:
                async with asyncio.timeout(40):
                    while condition(await cluster.get("natstrigger", "t", "apps"))["reason"] is None:
                        await asyncio.sleep(0.1)
                    while not await allowed(server, "editor", "get", "natstriggers/deadletters", "apps"):
                        await asyncio.sleep(0.2)  # a controller puts the roles together
            except TimeoutError:
                raise AssertionError(cluster.logs()) from None

            elsewhere: Any = {"kind": "NATSTrigger", "namespace": "elsewhere", "name": "t", "uid": "", "reason": ""}
            async with client(logins["editor"]) as (fabric, controllers):
                own = await fabric.trigger("t")
                await until_reachable(cluster, controllers)
                assert await fabric.dead_letters(own, 10) == []
                assert await fabric.purge(own, None) == (0, [])
                assert await fabric.lanes(own) == []
                assert await fabric.act_on_lanes(own, "release", None) == 0
                (flow,) = (await controllers.state(own)).flows
                assert flow["held"] == 0
                with pytest.raises(AccessDenied, match="needs get for natstriggers/flows in namespace elsewhere"):
                    await controllers.request_one(elsewhere, "GET", "dead-letters")
            async with client(logins["viewer"]) as (fabric, controllers):
                own = await fabric.trigger("t")
                assert len((await controllers.state(own)).flows) == 1
                with pytest.raises(AccessDenied, match="needs get for natstriggers/deadletters in namespace apps"):
                    await fabric.dead_letters(own, 10)
                with pytest.raises(AccessDenied, match="needs update for natstriggers/lanes in namespace apps"):
                    await fabric.act_on_lanes(own, "release", None)
            async with client(logins["nobody"]) as (_, controllers):
                with pytest.raises(AccessDenied, match="needs get for natstriggers/flows in namespace apps"):
                    await controllers.request_one({**elsewhere, "namespace": "apps"}, "GET", "dead-letters")
            async with client(logins["oncall"]) as (_, controllers):
                uid = (await cluster.get("natstrigger", "t", "elsewhere"))["metadata"]["uid"]
                answer = await controllers.request_one({**elsewhere, "uid": uid}, "GET", "dead-letters")
                assert answer == {"deadLetters": [], "unreadable": []}
            for user in logins:
                assert not await allowed(server, user, "create", "pods/exec", RELEASE), user
        finally:
            for controller in cluster.controllers:
                await controller.kill()
            await server.kubectl("delete", "natstriggers", "--all", "-A")


async def until_reachable(cluster: Cluster, controllers: ControllerClient) -> None:
    """Returns when the API server knows the endpoint of the controller."""
    problem: Exception | None = None
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await controllers.replicas("NATSTrigger")
                    return
                except Refused as error:
                    problem = error
                await asyncio.sleep(0.2)
    except TimeoutError:
        seen = await cluster.server.kubectl("get", "pods,endpoints", "-n", RELEASE, "-o", "yaml")
        raise AssertionError(f"{problem}\n{seen}\n{cluster.logs()}") from None


class Known(Rights):
    """Rights without an API server: the token is the user's name, who may do all in the namespace of that name."""

    def __init__(self) -> None:
        super().__init__(None, {})  # type: ignore[arg-type]

    async def user_of(self, token: str) -> User | None:
        return None if token == "wrong" else User(token, "", (), {})

    async def has(self, user: User, need: Need) -> bool:
        return user.name == need.namespace


async def test_a_request_reaches_the_replica_that_it_names_and_only_what_has_a_right(tmp_path: Path) -> None:
    certificate, port = await certificate_of(tmp_path), free_port()
    hosts = ["127.0.0.1", "127.0.0.2"]

    async def addresses() -> list[str]:
        return [*hosts, "127.0.0.3"]  # nobody listens at the last one

    @asynccontextmanager
    async def replica(host: str) -> AsyncIterator[None]:
        async def echo(request: web.Request) -> web.Response:
            return json_answer({"at": host, "path": request.path, "query": dict(request.query)})

        async def status(_: web.Request) -> web.Response:
            return json_answer({"at": host, "triggers": [{"namespace": "a"}, {"namespace": "b"}]})

        routes = [web.get("/v1/status", status), web.route("*", "/v1/triggers/{rest:.*}", echo)]
        place = tmp_path / f"{host}.sock"
        made = AdminPort(
            Known(), "NATSTrigger", replica=host, triggers=ServedTriggers(host), admin_socket=place,
            certificate=SharedCertificate(certificate), port=port, addresses=addresses,
        )  # fmt: skip
        async with served(application_of(*routes), place), made.served(host):
            yield

    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=trusting)
    async with replica(hosts[0]), replica(hosts[1]), aiohttp.ClientSession(connector=connector) as session:

        async def ask(path: str, user: str = "a", method: str = "GET", **query: str) -> tuple[int, Any]:
            headers = {"kubeirq-token": user} if user else {}
            url = f"https://{hosts[0]}:{port}{path}"
            async with session.request(method, url, headers=headers, params=query) as answer:
                return answer.status, await answer.json()

        assert await ask("/v1/replicas") == (200, {"replicas": hosts})
        for host in hosts:
            at = f"/v1/replicas/{host}"
            letters = "/v1/triggers/a/NATSTrigger/t/dead-letters"
            expected = {"at": host, "path": letters, "query": {"limit": "3"}}
            assert await ask(at + letters, limit="3") == (200, expected)
            found = await ask(f"{at}/v1/status", namespace="a")
            assert found == (200, {"at": host, "triggers": [{"namespace": "a"}]})
            assert (await ask(f"{at}/v1/status", namespace="b"))[0] == 403
            assert (await ask(f"{at}/v1/status"))[0] == 403
            assert (await ask(at + letters, user="b"))[0] == 403
            assert (await ask(at + letters, user="wrong"))[0] == 401
            assert (await ask(at + letters, user=""))[0] == 401
            assert (await ask(at + letters, method="DELETE"))[0] == 404
            for path in ("a/NATSTrigger/t/other", "a%2Fb/NATSTrigger/t/lanes", "../NATSTrigger/t/lanes", "a/b/c"):
                assert (await ask(f"{at}/v1/triggers/{path}"))[0] in (403, 404), path
        assert (await ask("/v1/replicas/none/v1/triggers/a/NATSTrigger/t/lanes"))[0] == 404
        assert (await ask("/v1/replicas", user=""))[0] == 401


@pytest.mark.parametrize(
    ("values", "has_users"),
    [(VALUES, True), ({"watchNamespace": "apps"}, False), ({"adminApi": {"enabled": False}}, False)],
)
async def test_the_admin_port_is_for_users_only_where_the_chart_can_review_their_rights(
    values: dict[str, Any], has_users: bool
) -> None:
    """The replicas of a controller use it in any case."""
    found = {
        (one["kind"], one["metadata"]["name"], one["metadata"].get("namespace")): one for one in await rendered(values)
    }
    names = {name for _, name, _ in found}
    assert ("kubeirq-reviews" in names) == has_users
    role = found["Role", "kubeirq-operator", RELEASE]
    assert any("pods/exec" in rule["resources"] for rule in role["rules"]) != has_users
    service = found["Service", "kubeirq-http-admin", RELEASE]
    assert ("kubeirq.dev/admin" in service["metadata"]["labels"]) == has_users
    (container,) = found["Deployment", "kubeirq-http", RELEASE]["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["KUBEIRQ_ADMIN_PEERS"] == service["metadata"]["name"]
    assert environment.get("KUBEIRQ_ADMIN_USERS", "true") == str(has_users).lower()
    assert "kubeirq-admin" in names, "the Secret with the certificate"
    policy = found["NetworkPolicy", "kubeirq-http", RELEASE]
    (rule,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "admin"]
    assert ("from" in rule) != has_users
    if not has_users:
        assert rule["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    if "watchNamespace" in values:
        rules = found["Role", "kubeirq-replicas", RELEASE]["rules"]
        assert rules == [
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
        ]


async def test_a_closed_network_lets_the_replicas_ask_each_other() -> None:
    values = {"networkPolicy": {"triggersTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}}
    (policy,) = [
        one for one in await rendered(values)
        if (one["kind"], one["metadata"]["name"]) == ("NetworkPolicy", "kubeirq-http")
    ]  # fmt: skip
    ways = [rule for rule in policy["spec"]["egress"] if rule.get("ports", [{}])[0].get("port") == "admin"]
    assert [rule["to"] for rule in ways] == [[{"podSelector": policy["spec"]["podSelector"]}]]
