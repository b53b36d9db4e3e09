"""A real Kubernetes API server on etcd, without nodes: what controllers talk to. Ready in about five seconds.

Tests share a server: one that is emptied after each, or, with namespaces of their own, that of their module.
"""

import asyncio
import base64
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from servers.certificates import Authority
from servers.kubernetes_build.build import programs
from servers.ports import free_port

WRITES = frozenset(("create", "update", "patch", "delete", "deletecollection"))
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],  # one line a request, when it is over
    "rules": [{"level": "Metadata"}],
}
# A process whose parent is killed dies too: no server outlives an interrupted test run.
MORTAL = ("setpriv", "--pdeathsig", "KILL")


class KubectlError(Exception):
    """kubectl ended in failure; the text is what it wrote to standard error."""


@dataclass
class APIServer:
    """One API server on loopback. `inside`: the command that starts a program where the server is to run."""

    folder: Path
    programs: Path
    port: int = field(default_factory=free_port)
    etcd_port: int = field(default_factory=free_port)
    etcd_peer_port: int = field(default_factory=free_port)
    inside: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ("127.0.0.1", "10.96.0.1")
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by program, its command line
    audited: int = 0  # bytes of the audit log that are an earlier test's

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Authority:
        return Authority(self.folder / "certificates")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "admin.kubeconfig"

    async def kubectl(self, *arguments: str, input: str | None = None, kubeconfig: Path | None = None) -> str:
        """The standard output of kubectl. Raises KubectlError."""
        process = await asyncio.create_subprocess_exec(
            *self.inside,
            str(self.programs / "kubectl"),
            f"--kubeconfig={kubeconfig or self.kubeconfig}",
            f"--cache-dir={self.folder / 'kubectl'}",
            *arguments,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            written, problems = await process.communicate(None if input is None else input.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {problems.decode().strip()}")
        return written.decode()

    def audit(self, *, user: str | None = None, resource: str | None = None) -> list[dict[str, Any]]:
        """Every request that is over, in order, as the audit log has it: at most by this user, to this resource."""
        with (self.folder / "audit.log").open("rb") as log:
            log.seek(self.audited)
            lines = log.read().split(b"\n")[:-1]  # the last may be half written
        events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [
            event
            for event in events
            if (user is None or event["user"]["username"] == user)
            and (resource is None or event.get("objectRef", {}).get("resource") == resource)
        ]

    def forget(self) -> None:
        """`audit` tells of later requests only."""
        self.audited = (self.folder / "audit.log").read_bytes().rfind(b"\n") + 1

    def writes(self, *, user: str | None = None, resource: str | None = None) -> list[dict[str, Any]]:
        """Those of `audit` that asked for a change."""
        return [event for event in self.audit(user=user, resource=resource) if event["verb"] in WRITES]

    async def kubeconfig_of(self, user: str, *groups: str) -> Path:
        """A kubeconfig that logs in as this user, by a certificate."""
        file_name = user.replace(":", "-")
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        certificate, key = await self.authority.issue(file_name, subject)
        cluster = {"server": self.url, "certificate-authority-data": _base64(self.authority.certificate)}
        login = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
        found = self.folder / f"{file_name}.kubeconfig"
        found.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "cluster", "cluster": cluster}],
                    "users": [{"name": user, "user": login}],
                    "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": user}}],
                    "current-context": "context",
                }
            )
        )
        return found

    async def start(self, *flags: str) -> None:
        """etcd and the API server, with further flags for the latter; returns once it is ready."""
        certificates = self.authority.folder
        certificates.mkdir()
        await self.authority.create()
        names = [f"IP:{address}" for address in self.addresses]
        names += ["DNS:localhost", "DNS:kubernetes.default.svc"]
        certificate, key = await self.authority.issue("server", "/CN=kube-apiserver", ",".join(names))
        public_key, signing_key = await self.authority.issue("service-accounts", "/CN=service-accounts")
        await self.kubeconfig_of("admin", "system:masters")
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        etcd_url = f"http://127.0.0.1:{self.etcd_port}"
        etcd_peer_url = f"http://127.0.0.1:{self.etcd_peer_port}"
        await self.run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8589934592",  # thousands of Functions, each with some revisions
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls={etcd_peer_url}",
            f"--initial-advertise-peer-urls={etcd_peer_url}",
            f"--initial-cluster=default={etcd_peer_url}",
        )
        await self.run(
            "kube-apiserver",
            f"--etcd-servers={etcd_url}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--service-account-key-file={public_key}",
            f"--service-account-signing-key-file={signing_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            f"--audit-log-path={self.folder / 'audit.log'}",
            *(flags or ("--bind-address=127.0.0.1", "--advertise-address=198.18.0.1")),
        )
        await self.until("kube-apiserver", "get", "--raw", "/readyz")

    async def start_controllers(self, *flags: str) -> None:
        """The controller manager: garbage collection, Deployments, default service accounts."""
        login = await self.kubeconfig_of("system:kube-controller-manager")
        await self.run(
            "kube-controller-manager",
            f"--kubeconfig={login}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.authority.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.authority.certificate}",
            *flags,
        )
        await self.until("kube-controller-manager", "get", "serviceaccount", "default", "--namespace=default")

    async def run(self, program: str, *arguments: str) -> None:
        """Starts it, one of Kubernetes' or of the machine's; it is stopped at the end."""
        self.commands[program] = arguments
        environment = {**os.environ, "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"}
        with (self.folder / f"{program}.log").open("ab") as log:
            self.processes[program] = await asyncio.create_subprocess_exec(
                *MORTAL, *self.inside, program, *arguments,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    async def kill(self, program: str) -> None:
        """SIGKILL."""
        process = self.processes[program]
        # The program inside is a child of `nsenter`, which ends as its child does
        for victim in psutil.Process(process.pid).children() or [process]:
            victim.kill()
        await process.wait()

    async def run_again(self, program: str) -> None:
        """As it was started."""
        await self.run(program, *self.commands[program])

    async def until(self, program: str, *kubectl: str) -> None:
        """Returns once this kubectl command succeeds; `program` is whose log is shown if it never does."""
        last = ""
        try:
            async with asyncio.timeout(40):
                while True:
                    try:
                        await self.kubectl(*kubectl)
                    except KubectlError as error:
                        last = str(error)
                        assert self.processes[program].returncode is None, self.log_of(program)
                        await asyncio.sleep(0.1)
                    else:
                        return
        except TimeoutError:
            raise AssertionError(f"{last}\n{self.log_of(program)}") from None

    def log_of(self, program: str) -> str:
        """The end of it."""
        return (self.folder / f"{program}.log").read_text()[-3000:]

    async def stop(self) -> None:
        """SIGKILL to all that was started here: nothing of a test's cluster is wanted afterwards."""
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
        for process in self.processes.values():
            await process.wait()


@asynccontextmanager
async def api_server(*, controllers: bool = False) -> AsyncIterator[APIServer]:
    """A ready API server, stopped by pid at the end, whatever happened. `controllers`: with the controller manager."""
    built = await asyncio.to_thread(programs)
    with tempfile.TemporaryDirectory() as folder:
        found = APIServer(Path(folder), built)
        try:
            await found.start()
            if controllers:
                await found.start_controllers()
            yield found
        finally:
            await found.stop()


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
