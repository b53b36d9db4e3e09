"""What a Function is on a cluster: the Kubernetes objects that run it. Pure."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.cluster.strategic_merge import merged
from controllers.functions.config_map import config_map_of, dependencies_key_of, digest_of, key_of
from controllers.functions.resource import FunctionSpec, Variable
from controllers.functions.runtimes import BY_NAME, Runtime
from controllers.functions.status import FUNCTION_LABEL, PORT, status_of, url_of

__all__ = ["CODE_ANNOTATION", "FUNCTION_LABEL", "PORT", "Settings", "objects_of", "status_of", "url_of"]

Object = dict[str, Any]

CODE_ANNOTATION = "kubeirq.dev/code"

# Where things are inside a pod
RUNTIME_PATH = "/kubeirq/runtime"
CODE_PATH = "/kubeirq/code"
DEPENDENCIES_PATH = "/kubeirq/dependencies"
DEPENDENCIES_FILE_PATH = "/kubeirq/dependencies-file"

USER = 65532  # nobody in particular; images of languages have root, which restricted pods may not be
ENDPOINTS_DRAIN_SECONDS = 5  # until everyone has heard that this pod is leaving; requests still come meanwhile
RUNTIME_STOP_SECONDS = 7  # what the runtime takes beyond its grace before it kills its worker
START_SECONDS = 300
PROGRESS_SECONDS = 600
_LIVENESS_PERIOD_SECONDS = 10
_LIVENESS_SLACK_SECONDS = 30
_FETCH = Path(__file__).with_name("fetch.py").read_text()


class NotOnCluster(ValueError):
    """The spec is right, but not on a cluster: field, problem, way out."""


@dataclass(frozen=True)
class Settings:
    """What the controller's installation says of all functions."""

    runtime_image: str  # has /runtime/<name> for each runtime of the catalogue
    images: Mapping[str, str] = field(default_factory=dict)  # by runtime, in place of the catalogue's
    image_pull_policy: str = "IfNotPresent"
    package_index: str | None = None
    extra_package_indexes: tuple[str, ...] = ()
    trusted_package_hosts: tuple[str, ...] = ()  # host or host:port, reached without TLS


def objects_of(metadata: Mapping[str, Any], spec: FunctionSpec, settings: Settings) -> list[Object]:
    """Everything that the function needs, each before what refers to it.

    `metadata` is the Function's own (namespace, name, uid, labels); `spec` has its handler. The same values give the
    same objects. Raises ValueError (TooLarge, BadPatch, NotOnCluster) with a text for the function's author.
    """
    if spec.source.path is not None:
        raise NotOnCluster(
            "spec.source.path: a cluster cannot see your files; `kubeirq deploy` sends them, or: url, configMap, image"
        )
    if spec.dependencies_path is not None:
        raise NotOnCluster(
            "spec.dependenciesPath: a cluster cannot see your files; `kubeirq deploy` sends it, or say dependencies"
        )
    workload = _Workload(metadata, spec, settings)
    objects = [workload.code] if workload.code else []
    objects += [workload.deployment(), workload.service()]
    if spec.scale.is_automatic:
        objects.append(workload.autoscaler())
    if spec.scale.min >= 2:
        objects.append(workload.disruption_budget())
    plain: list[Object] = json.loads(json.dumps(objects))  # nothing is shared between them, nor with the spec
    return plain


class _Workload:
    """The builders, with what they share."""

    def __init__(self, metadata: Mapping[str, Any], spec: FunctionSpec, settings: Settings) -> None:
        self.name: str = metadata["name"]
        self.namespace: str = metadata["namespace"]
        self.spec = spec
        self.settings = settings
        self.runtime: Runtime = BY_NAME[spec.runtime]
        self.image = spec.source.image or spec.image or settings.images.get(self.runtime.name) or self.runtime.image
        self.module, _, self.handler = spec.handler.rpartition(".")
        self.module_file = self.module.replace(".", "/") + self.runtime.code_suffix
        self.selector = {FUNCTION_LABEL: self.name}
        self.labels = {
            **metadata.get("labels", {}),
            "app.kubernetes.io/name": self.name,
            "app.kubernetes.io/managed-by": "kubeirq",
            **self.selector,
        }
        self.metadata = {
            "name": self.name,
            "namespace": self.namespace,
            "labels": self.labels,
            "ownerReferences": [
                {
                    "apiVersion": "kubeirq.dev/v1",
                    "kind": "Function",
                    "name": self.name,
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        }
        self.has_dependencies = _says_something(spec.dependencies)
        self.files = spec.source.files or {}
        if spec.source.inline is not None:
            self.files = {self.module_file: spec.source.inline}
        dependencies = {self.runtime.dependencies_file: spec.dependencies or ""} if self.has_dependencies else {}
        self.code: Object = {}  # none where there is nothing to keep
        if self.files or dependencies:
            self.code = config_map_of(self.metadata, self.files, dependencies=dependencies)

    # the objects

    def deployment(self) -> Object:
        scale = self.spec.scale
        spec: Object = {
            "selector": {"matchLabels": self.selector},
            # a new version has to be ready before the old one goes: one that never is takes nothing down
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "revisionHistoryLimit": 5,
            "template": merged(self._pod(), self.spec.pod_template),
        }
        if not scale.is_automatic:
            spec["replicas"] = scale.min  # otherwise it is the autoscaler's field
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": self.metadata, "spec": spec}

    def service(self) -> Object:
        port = {"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata,
            "spec": {"selector": self.selector, "ports": [port]},
        }

    def autoscaler(self) -> Object:
        scale = self.spec.scale
        target = {"type": "Utilization", "averageUtilization": scale.cpu_percent}
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": self.metadata,
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name},
                "minReplicas": scale.min,
                "maxReplicas": scale.max,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            },
        }

    def disruption_budget(self) -> Object:
        return {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": self.metadata,
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": self.selector},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",  # a broken function holds up no node's maintenance
            },
        }

    # the pod; nothing in it may come from what does not concern its running, or that would roll it

    def _pod(self) -> Object:
        init_containers = [self._copy_runtime()]
        if self.spec.source.url is not None:
            init_containers.append(self._fetch_code())
        if self.has_dependencies:
            init_containers.append(self._install_dependencies())
        return {
            "metadata": {"labels": self.selector, "annotations": {CODE_ANNOTATION: self._code_digest()}},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": ENDPOINTS_DRAIN_SECONDS
                + math.ceil(self.spec.timeout_seconds)
                + RUNTIME_STOP_SECONDS,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": self.selector},
                    }
                ],
                "initContainers": init_containers,
                "containers": [self._function()],
                "volumes": self._volumes(),
            },
        }

    def _code_digest(self) -> str:
        source = self.spec.source.model_dump(mode="json", exclude_none=True, exclude={"files"})
        return digest_of({"source": repr(sorted(source.items())), **self.code.get("data", {})})

    def _container(self, name: str, **fields: Any) -> Object:
        """With what all containers of a function's pod have."""
        return {
            "name": name,
            "image": self.image,
            "imagePullPolicy": self.settings.image_pull_policy,
            "terminationMessagePolicy": "FallbackToLogsOnError",  # so that the status can say why
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            **fields,
        }

    def _copy_runtime(self) -> Object:
        return self._container(
            "runtime",
            image=self.settings.runtime_image,
            command=["cp", "-R", f"/runtime/{self.runtime.name}/.", RUNTIME_PATH],
            volumeMounts=[{"name": "runtime", "mountPath": RUNTIME_PATH}],
        )

    def _fetch_code(self) -> Object:
        source = self.spec.source
        return self._container(
            "fetch",
            command=[self.runtime.interpreter, "-c", _FETCH, source.url, source.sha256, CODE_PATH, self.module_file],
            env=_variables({"HOME": "/tmp"}),  # noqa: S108 the pod's own
            volumeMounts=[{"name": "code", "mountPath": CODE_PATH}, _TMP_MOUNT],
        )

    def _install_dependencies(self) -> Object:
        settings = self.settings
        file = f"{DEPENDENCIES_FILE_PATH}/{self.runtime.dependencies_file}"
        options = ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--upgrade", "--no-compile"]
        if settings.package_index is not None:
            options += ["--index-url", settings.package_index]
        for index in settings.extra_package_indexes:
            options += ["--extra-index-url", index]
        for host in settings.trusted_package_hosts:
            options += ["--trusted-host", host]
        pip = [self.runtime.interpreter, "-m", "pip", "install"]
        return self._container(
            "dependencies",
            command=[*pip, *options, "--target", DEPENDENCIES_PATH, "--requirement", file],
            env=_variables({"HOME": "/tmp"}),  # noqa: S108 the pod's own
            volumeMounts=[
                {"name": "dependencies", "mountPath": DEPENDENCIES_PATH},
                {"name": "dependencies-file", "mountPath": DEPENDENCIES_FILE_PATH, "readOnly": True},
                _TMP_MOUNT,
            ],
        )

    def _function(self) -> Object:
        health = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 5}
        # the runtime ends what spins by itself; only a process that is long past that is dead
        patience_seconds = self.spec.timeout_seconds + _LIVENESS_SLACK_SECONDS
        container = self._container(
            "function",
            command=[self.runtime.interpreter, f"{RUNTIME_PATH}/server.py"],
            ports=[{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            env=self._environment(),
            startupProbe={**health, "periodSeconds": 1, "failureThreshold": START_SECONDS},
            readinessProbe={**health, "periodSeconds": 5, "failureThreshold": 3},
            livenessProbe={
                **health,
                "periodSeconds": _LIVENESS_PERIOD_SECONDS,
                "failureThreshold": math.ceil(patience_seconds / _LIVENESS_PERIOD_SECONDS),
            },
            lifecycle={"preStop": {"sleep": {"seconds": ENDPOINTS_DRAIN_SECONDS}}},
            volumeMounts=[
                {"name": volume, "mountPath": path, "readOnly": True}
                for volume, path in (
                    ("runtime", RUNTIME_PATH),
                    *((("code", CODE_PATH),) if self._has_code_volume else ()),
                    *((("dependencies", DEPENDENCIES_PATH),) if self.has_dependencies else ()),
                )
            ]
            + [_TMP_MOUNT],
        )
        if self._has_code_volume:
            container["workingDir"] = CODE_PATH
        if self.spec.env_from:
            container["envFrom"] = self.spec.env_from
        if self.spec.resources:
            container["resources"] = self.spec.resources
        return container

    @property
    def _has_code_volume(self) -> bool:
        return self.spec.source.image is None

    def _environment(self) -> list[Object]:
        """The runtime's contract. It wins over the author's variables, which win over what merely makes sense."""
        spec = self.spec
        packages = f"{RUNTIME_PATH}/packages"
        contract = {
            "PYTHONPATH": f"{DEPENDENCIES_PATH}:{packages}" if self.has_dependencies else packages,
            "MOD_NAME": self.module,
            "FUNC_HANDLER": self.handler,
            "FUNC_PORT": str(PORT),
            "FUNC_NAME": self.name,
            "FUNC_NAMESPACE": self.namespace,
            "FUNC_RUNTIME": self.runtime.name,
            "FUNC_TIMEOUT": f"{spec.timeout_seconds:g}",
            "FUNC_MEMORY_LIMIT": str((spec.resources.get("limits") or {}).get("memory", 0)),
            "FUNC_GRACE": f"{spec.timeout_seconds:g}",
            "FUNC_CONCURRENCY": "" if spec.concurrency is None else str(spec.concurrency),
            "FUNC_STARTUP": spec.startup or "",
            "FUNC_SHUTDOWN": spec.shutdown or "",
            "KUBEIRQ_CODE_PATH": CODE_PATH if self._has_code_volume else "",
        }
        usual = {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108 the pod's own
        found = {item["name"]: item for item in _variables(usual)}
        found |= {variable.name: _variable_of(variable) for variable in spec.env}
        found |= {item["name"]: item for item in _variables({name: text for name, text in contract.items() if text})}
        return list(found.values())

    def _volumes(self) -> list[Object]:
        source = self.spec.source
        volumes: list[Object] = [{"name": "runtime", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
        if self.files:
            volumes.append(self._mounted("code", {key_of(path): path for path in self.files}))
        elif source.config_map is not None:
            items = [{"key": source.config_map.key, "path": self.module_file}]
            volumes.append({"name": "code", "configMap": {"name": source.config_map.name, "items": items}})
        elif source.url is not None:
            volumes.append({"name": "code", "emptyDir": {}})
        if self.has_dependencies:
            volumes.append({"name": "dependencies", "emptyDir": {}})
            file = self.runtime.dependencies_file
            volumes.append(self._mounted("dependencies-file", {dependencies_key_of(file): file}))
        return volumes

    def _mounted(self, volume: str, paths: Mapping[str, str]) -> Object:
        """Files of the ConfigMap, path by key."""
        items = [{"key": key, "path": path} for key, path in sorted(paths.items())]
        return {"name": volume, "configMap": {"name": self.code["metadata"]["name"], "items": items}}


_TMP_MOUNT = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 the pod's own, the only place it can write to


def _variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _variable_of(variable: Variable) -> Object:
    # an empty value is left out: the server would leave it out too, and it would look like drift
    return variable.model_dump(by_alias=True, exclude_none=True, exclude={"value"} if not variable.value else None)


def _says_something(requirements: str | None) -> bool:
    lines = (line.strip() for line in (requirements or "").splitlines())
    return any(line and not line.startswith("#") for line in lines)
