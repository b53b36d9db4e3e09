"""A whole Kubernetes of one node, with real pods, Services and DNS, in namespaces of its own.

It has its own network, mounts and process ids: no rule or interface of the machine is touched, and all of it is gone
with the first process of its process-id namespace. Programs that talk to it run inside: see `Node.execute` and
`Node.joined`.
"""

import asyncio
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from servers import images
from servers.kubernetes import MORTAL, APIServer
from servers.kubernetes_build.build import programs

PACKAGES = {
    "openssl": "openssl",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
}
ADDRESS = "198.18.0.1"
DNS_ADDRESS = "10.96.0.10"
MOST_RESTART_SECONDS = (
    2  # a program that ended is started again within this time; elsewhere the wait grows to five minutes
)
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
CGROUPS = Path("/sys/fs/cgroup")
# Files that programs keep there belong to the node and go with it, such as addresses of pods, which would run out
OWN_FOLDERS = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# The first process of the namespaces: orphans are its children, and ignoring their signal buries them.
FIRST_PROCESS = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
# A veth pair, because kernels without modules lack dummy devices.
NETWORK = f"""set -e
ip link set lo up
ip link add node0 type veth peer name node1
ip addr add {ADDRESS}/24 dev node0
ip link set node0 up
ip link set node1 up
ip route add default via 198.18.0.254 dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
POD_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def lacking() -> str | None:
    """Why no node can be started on this machine; None when one can, given the programs of Kubernetes."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        return f"no {missing[0]}: as root, apt-get install {' '.join(missing)}"
    trial = subprocess.run([*UNSHARE, "mount", "--make-private", "/"], check=False, capture_output=True, text=True)
    return f"no namespaces for this user: {trial.stderr.strip()}" if trial.returncode else None


@dataclass
class Node(APIServer):
    """An API server with one node, `node`; `inside` is set when its namespaces are there."""

    first: psutil.Process | None = None  # of the namespace of process ids

    def enter(self, first: psutil.Process) -> None:
        """Programs are run in the namespaces of this process from now on."""
        self.first = first
        self.inside = ("nsenter", f"--target={first.pid}", "--net", "--mount", "--pid", "--")

    async def execute(self, *command: str) -> str:
        """The standard output of a command inside the namespaces. It must succeed."""
        process = await asyncio.create_subprocess_exec(
            *MORTAL, *self.inside, *command,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        written, problems = await process.communicate()
        assert process.returncode == 0, f"{command}: {problems.decode()}"
        return written.decode()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Meanwhile this thread, and every process that it starts, is on the node's network: Services answer."""
        assert self.first is not None
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.first.pid}/ns/net") as network:
            _enter(network.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    async def load(self, archive: Path) -> None:
        """Makes the images of a docker archive known to the node."""
        await self._ctr("--namespace=k8s.io", "images", "import", str(archive))

    async def name_also(self, image: str, name: str) -> None:
        """Another name for an image that the node has, as a registry has for another version."""
        await self._ctr("--namespace=k8s.io", "images", "tag", "--force", image, name)

    async def start_node(self) -> None:
        """All of it; returns once the node is ready."""
        await self._enter_namespaces()
        for folder in OWN_FOLDERS:
            await self.execute("mkdir", "--parents", folder)
            await self.execute("mount", "-t", "tmpfs", "tmpfs", folder)
        await self.execute("sh", "-c", NETWORK)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_control_plane())
            group.create_task(self._start_containerd())
        await self._start_kubelet()
        login = await self.kubeconfig_of("system:kube-proxy")
        await self.run(
            "kube-proxy",
            "--oom-score-adj=0",
            f"--kubeconfig={login}",
            "--cluster-cidr=10.244.0.0/16",
            "--hostname-override=node",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )
        await self._start_dns()
        await self.until("kubelet", "wait", "--for=condition=Ready", "node/node", "--timeout=20s")

    async def restart_api_server(self) -> None:
        """SIGKILL, and started again; the rest of the control plane with it, whose own pauses grow to a minute."""
        await self.kill("kube-apiserver")
        await self.run_again("kube-apiserver")
        await self.until("kube-apiserver", "get", "--raw", "/readyz")
        for program in ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"):
            await self.kill(program)
            await self.run_again(program)

    async def stop(self) -> None:
        # The kernel ends the first process after all others of its namespace, and unshare waits for it
        if self.first is not None:
            with suppress(psutil.NoSuchProcess):
                self.first.kill()
            await self.processes["unshare"].wait()
        await super().stop()
        for hierarchy in _hierarchies():
            folders = [*(hierarchy / self._cgroup).rglob("*"), hierarchy / self._cgroup]
            for folder in sorted((path for path in folders if path.is_dir()), reverse=True):
                await _remove_cgroup(folder)

    @property
    def _cgroup(self) -> str:
        return (
            f"kubeirq-{self.folder.name}"  # of its own: a kubelet kills every pod of its cgroup that it does not know
        )

    async def _enter_namespaces(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *MORTAL, *UNSHARE, sys.executable, "-c", FIRST_PROCESS,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.processes["unshare"] = process
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        self.enter(psutil.Process(process.pid).children()[0])

    async def _start_control_plane(self) -> None:
        await self.start(
            f"--advertise-address={ADDRESS}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={self.authority.folder / 'admin.crt'}",
            f"--kubelet-client-key={self.authority.folder / 'admin.key'}",
        )
        login = await self.kubeconfig_of("system:kube-scheduler")
        await self.run("kube-scheduler", f"--kubeconfig={login}", "--leader-elect=false", "--secure-port=0")
        await self.start_controllers("--cluster-cidr=10.244.0.0/16", "--allocate-node-cidrs=true")

    async def _start_containerd(self) -> None:
        archives = await asyncio.to_thread(images.archives)
        network = self.folder / "network"
        network.mkdir()
        (network / "10-pods.conflist").write_text(json.dumps(POD_NETWORK))
        configuration = self.folder / "containerd.toml"
        configuration.write_text(
            f"""version = 2
root = "{self.folder}/containerd/root"
state = "{self.folder}/containerd/state"
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true  # without the right to lower scores runc cannot start anything
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{network}"
"""
        )
        await self.run("containerd", f"--config={configuration}")
        async with asyncio.timeout(20):
            while not self._socket.exists():
                assert self.processes["containerd"].returncode is None, self.log_of("containerd")
                await asyncio.sleep(0.05)
        for archive in archives:
            await self.load(archive)

    async def _start_kubelet(self) -> None:
        for hierarchy in _hierarchies():
            (hierarchy / self._cgroup).mkdir()
        login = await self.kubeconfig_of("system:node:node", "system:nodes")
        configuration = self.folder / "kubelet.json"
        configuration.write_text(
            json.dumps(
                {
                    "apiVersion": "kubelet.config.k8s.io/v1beta1",
                    "kind": "KubeletConfiguration",
                    "authentication": {
                        "anonymous": {"enabled": False},
                        "webhook": {"enabled": True},
                        "x509": {"clientCAFile": str(self.authority.certificate)},
                    },
                    "authorization": {"mode": "Webhook"},
                    "cgroupDriver": "cgroupfs",
                    "cgroupRoot": f"/{self._cgroup}",
                    # of its own: a kubelet removes the logs of every pod that it does not know
                    "podLogsDir": str(self.folder / "pod-logs"),
                    "failCgroupV1": False,
                    "featureGates": {"KubeletCrashLoopBackOffMax": True},
                    "crashLoopBackOff": {"maxContainerRestartPeriod": f"{MOST_RESTART_SECONDS}s"},
                    "failSwapOn": False,
                    "containerRuntimeEndpoint": f"unix://{self._socket}",
                    "clusterDNS": [DNS_ADDRESS],
                    "clusterDomain": "cluster.local",
                    "imageGCHighThresholdPercent": 100,
                    "imageGCLowThresholdPercent": 99,
                    "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "50Mi"},
                    "resolvConf": "",
                }
            )
        )
        await self.run(
            "kubelet",
            f"--kubeconfig={login}",
            f"--config={configuration}",
            "--hostname-override=node",
            "--oom-score-adj=0",
            f"--node-ip={ADDRESS}",
            f"--root-dir={self.folder / 'kubelet'}",
        )

    async def _start_dns(self) -> None:
        """CoreDNS beside the pods, not in one, behind the Service that pods ask."""
        configuration = self.folder / "Corefile"
        zone = f"  bind {ADDRESS}\n  kubernetes cluster.local {{\n    kubeconfig {self.kubeconfig}\n  }}\n"
        configuration.write_text(f"cluster.local:53 {{\n{zone}}}\n")
        await self.run("coredns", "-conf", str(configuration))
        ports = [{"name": f"dns-{name.lower()}", "port": 53, "protocol": name} for name in ("UDP", "TCP")]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
        }
        labels = {"kubernetes.io/service-name": "kube-dns"}
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS]}],
            "ports": ports,
        }
        objects = {"apiVersion": "v1", "kind": "List", "items": [service, endpoints]}
        await self.kubectl("apply", "-f", "-", input=json.dumps(objects))

    @property
    def _socket(self) -> Path:
        return self.folder / "containerd.sock"

    async def _ctr(self, *arguments: str) -> None:
        await self.execute("ctr", f"--address={self._socket}", *arguments)


@asynccontextmanager
async def node() -> AsyncIterator[Node]:
    """A cluster of one ready node, gone at the end, whatever happened."""
    built = await asyncio.to_thread(programs)
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        found = Node(Path(folder), built, addresses=("127.0.0.1", ADDRESS, "10.96.0.1"))
        try:
            await found.start_node()
            yield found
        finally:
            await found.stop()


def _enter(network: int) -> None:
    """The network of an open file of /proc/PID/ns/net, for this thread."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(network, NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _hierarchies() -> list[Path]:
    """Where cgroups are made: one place in version 2, one for each controller in version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink() and os.path.ismount(path)]


async def _remove_cgroup(folder: Path) -> None:
    """Waits for its last processes to be buried."""
    async with asyncio.timeout(10):
        while folder.exists():
            with suppress(OSError):
                folder.rmdir()
                return
            await asyncio.sleep(0.05)
