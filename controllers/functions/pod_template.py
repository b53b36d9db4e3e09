"""Builds the pod template of a Function. Pure.

A change of the template causes a rollout. Therefore it contains nothing that does not concern the pods.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.functions.callers import Peer
from controllers.functions.config_map import dependencies_key_of, key_of
from controllers.functions.resource import FunctionSpec, Variable
from controllers.functions.runtimes import BY_NAME, Runtime
from controllers.functions.status import FUNCTION_LABEL, PORT

Object = dict[str, Any]

CODE_ANNOTATION = "kubeirq.dev/code"
CONTENT_ANNOTATION = "kubeirq.dev/content"  # of the ConfigMaps that the spec refers to

# Mount paths in the pod
RUNTIME_PATH = "/kubeirq/runtime"
CODE_PATH = "/kubeirq/code"
DEPENDENCIES_PATH = "/kubeirq/dependencies"
DEPENDENCIES_FILE_PATH = "/kubeirq/dependencies-file"

USER = 65532  # the usual nonroot user; language images run as root, which the restricted pod security standard forbids
ENDPOINTS_DRAIN_SECONDS = 5  # requests still arrive until every client has observed that the endpoint is gone
RUNTIME_STOP_SECONDS = 7  # from the end of the runtime's grace period until it has killed its worker
START_SECONDS = 300
_LIVENESS_PERIOD_SECONDS = 10
_LIVENESS_SLACK_SECONDS = 30
_FETCH = Path(__file__).with_name("fetch.py").read_text()


@dataclass(frozen=True)
class Settings:
    """The settings of an installation, for all functions."""

    runtime_image: str  # has /runtime/<name> for each runtime of the catalogue
    images: Mapping[str, str] = field(default_factory=dict)  # by runtime, in place of the catalogue's
    image_pull_policy: str = "IfNotPresent"
    release: str = ""  # namespace/name of the installation; a mark on each Deployment
    package_index: str | None = None
    extra_package_indexes: tuple[str, ...] = ()
    trusted_package_hosts: tuple[str, ...] = ()  # host or host:port, without TLS
    callers: tuple[Peer, ...] | None = None  # that reach functions; None for everyone
    init_resources: Mapping[str, Any] = field(default_factory=dict)  # of each init container, as in a container
    has_fixed_user: bool = True  # OpenShift chooses a user by namespace, and refuses pods that name another


def files_of(spec: FunctionSpec) -> Mapping[str, str]:
    """The text of each inline file, by its path."""
    if spec.source.inline is not None:
        return {_module_file_of(spec): spec.source.inline}
    return spec.source.files or {}


def has_dependencies(spec: FunctionSpec) -> bool:
    """Whether the dependencies file has a line that is not a comment."""
    lines = (line.strip() for line in (spec.dependencies or "").splitlines())
    return any(line and not line.startswith("#") for line in lines)


class PodTemplate:
    """Builds one function's pod template.

    `config_map` is the name of the ConfigMap with its code, empty if there is none. `code_digest` is that of its code.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        spec: FunctionSpec,
        settings: Settings,
        config_map: str,
        code_digest: str,
        content: str,
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.spec = spec
        self.settings = settings
        self.config_map = config_map
        self.code_digest = code_digest
        self.content = content
        self.runtime: Runtime = BY_NAME[spec.runtime]
        self.image = spec.source.image or spec.image or settings.images.get(self.runtime.name) or self.runtime.image
        self.module, _, self.handler = spec.handler.rpartition(".")
        self.module_file = _module_file_of(spec)
        self.selector = {FUNCTION_LABEL: self.name}
        self.files = files_of(spec)
        self.has_dependencies = has_dependencies(spec)

    def build(self) -> Object:
        init_containers = [self._copy_runtime()]
        if self.spec.source.url is not None:
            init_containers.append(self._fetch_code())
        if self.has_dependencies:
            init_containers.append(self._install_dependencies())
        if self.settings.init_resources:
            init_containers = [{**found, "resources": dict(self.settings.init_resources)} for found in init_containers]
        return {
            "metadata": {"labels": self.selector, "annotations": self._annotations()},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": ENDPOINTS_DRAIN_SECONDS
                + math.ceil(self.spec.timeout_seconds)
                + RUNTIME_STOP_SECONDS,
                "securityContext": {
                    "runAsNonRoot": True,
                    **(
                        {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER} if self.settings.has_fixed_user else {}
                    ),
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
                "containers": [self._function_container()],
                "volumes": self._volumes(),
            },
        }

    def _container(self, name: str, **fields: Any) -> Object:
        """A container with the fields that all containers of the pod share."""
        return {
            "name": name,
            "image": self.image,
            "imagePullPolicy": self.settings.image_pull_policy,
            "terminationMessagePolicy": "FallbackToLogsOnError",  # for the message in the status
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

    def _annotations(self) -> Object:
        """Of the pods, so that other code and other content of a ConfigMap lead to a rollout."""
        content = {CONTENT_ANNOTATION: self.content} if self.content else {}
        return {CODE_ANNOTATION: self.code_digest, **content}

    def _fetch_code(self) -> Object:
        source = self.spec.source
        env = _variables({"HOME": "/tmp"})  # noqa: S108 inside the pod
        if source.authorization is not None:
            key = {"name": source.authorization.name, "key": source.authorization.key}
            env.append({"name": "FETCH_AUTHORIZATION", "valueFrom": {"secretKeyRef": key}})
        return self._container(
            "fetch",
            command=[self.runtime.interpreter, "-c", _FETCH, source.url, source.sha256, CODE_PATH, self.module_file],
            env=env,
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
            env=_variables({"HOME": "/tmp"}),  # noqa: S108 inside the pod
            volumeMounts=[
                {"name": "dependencies", "mountPath": DEPENDENCIES_PATH},
                {"name": "dependencies-file", "mountPath": DEPENDENCIES_FILE_PATH, "readOnly": True},
                _TMP_MOUNT,
            ],
        )

    def _function_container(self) -> Object:
        health = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 5}
        # the runtime itself ends a call that exceeds its time limit; a longer silence means that the process hangs
        silence_seconds = self.spec.timeout_seconds + _LIVENESS_SLACK_SECONDS
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
                "failureThreshold": math.ceil(silence_seconds / _LIVENESS_PERIOD_SECONDS),
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
        """The variables: those of the runtime contract override the author's, and these override the defaults."""
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
            "FUNC_FAILURE_DETAIL": "" if spec.failure_detail else "0",
            "KUBEIRQ_CODE_PATH": CODE_PATH if self._has_code_volume else "",
        }
        defaults = {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108 inside the pod
        found = {item["name"]: item for item in _variables(defaults)}
        found |= {variable.name: _variable_of(variable) for variable in spec.env}
        found |= {item["name"]: item for item in _variables({name: text for name, text in contract.items() if text})}
        return list(found.values())

    def _volumes(self) -> list[Object]:
        source = self.spec.source
        volumes: list[Object] = [{"name": "runtime", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
        if self.files:
            volumes.append(self._config_map_volume("code", {key_of(path): path for path in self.files}))
        elif source.config_map is not None:
            items = [{"key": source.config_map.key, "path": self.module_file}]
            volumes.append({"name": "code", "configMap": {"name": source.config_map.name, "items": items}})
        elif source.url is not None:
            volumes.append({"name": "code", "emptyDir": {}})
        if self.has_dependencies:
            volumes.append({"name": "dependencies", "emptyDir": {}})
            file = self.runtime.dependencies_file
            volumes.append(self._config_map_volume("dependencies-file", {dependencies_key_of(file): file}))
        return volumes

    def _config_map_volume(self, volume: str, paths: Mapping[str, str]) -> Object:
        """A volume with files of the code ConfigMap. `paths` has the path by key."""
        items = [{"key": key, "path": path} for key, path in sorted(paths.items())]
        return {"name": volume, "configMap": {"name": self.config_map, "items": items}}


_TMP_MOUNT = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 inside the pod, the only writable place


def _module_file_of(spec: FunctionSpec) -> str:
    module = spec.handler.rpartition(".")[0]
    return module.replace(".", "/") + BY_NAME[spec.runtime].code_suffix


def _variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _variable_of(variable: Variable) -> Object:
    # without an empty value, because the server drops it, which would look like drift
    return variable.model_dump(by_alias=True, exclude_none=True, exclude={"value"} if not variable.value else None)
