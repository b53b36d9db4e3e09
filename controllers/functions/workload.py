"""Builds the Kubernetes objects that run a Function. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from controllers.cluster.strategic_merge import merged
from controllers.functions.callers import policy_that_closes
from controllers.functions.code import Code, code_of
from controllers.functions.pod_template import PodTemplate, Settings
from controllers.functions.resource import FunctionSpec
from controllers.functions.status import FUNCTION_LABEL, PORT

Object = dict[str, Any]

PROGRESS_SECONDS = 600
RELEASE_ANNOTATION = "kubeirq.dev/release"  # the installation that wrote the Deployment last


class NotOnCluster(ValueError):
    """The spec is valid, but not on a cluster. The text has field, problem and way out."""


def objects_of(
    metadata: Mapping[str, Any],
    spec: FunctionSpec,
    settings: Settings,
    code: Code | None = None,
    content: str = "",
) -> list[Object]:
    """All objects that the function needs, each one after the objects that it refers to.

    `metadata` is that of the Function (namespace, name, uid, labels). `spec` has its handler. With `code`, the spec may
    be without its texts, and the ConfigMap with the code has only its metadata. `content` is a digest
    of the ConfigMaps that the spec refers to. Equal arguments give equal objects.
    Raises ValueError (TooLarge, BadPatch, NotOnCluster), whose text is for the function's author.
    """
    if spec.source.path is not None:
        raise NotOnCluster(
            "spec.source.path: a cluster cannot read your files; "
            "upload them with `kubeirq deploy`, or set url, configMap or image"
        )
    if spec.dependencies_path is not None:
        raise NotOnCluster(
            "spec.dependenciesPath: a cluster cannot read your files; "
            "upload it with `kubeirq deploy`, or set dependencies"
        )
    workload = _Workload(metadata, spec, settings, code, content)
    objects = [workload.config_map] if workload.config_map else []
    if settings.callers:
        head = {**workload.metadata, "name": f"{workload.name}-callers"}
        objects.append(policy_that_closes(head, workload.name, settings.callers))  # before there are pods
    objects += [workload.deployment(), workload.service()]
    if spec.scale.is_automatic:
        objects.append(workload.autoscaler())
    if spec.scale.min >= 2:
        objects.append(workload.disruption_budget())
    copied: list[Object] = json.loads(json.dumps(objects))  # they share no parts with each other or with the spec
    return copied


class _Workload:
    """Builds the objects, which share metadata and labels."""

    def __init__(
        self, metadata: Mapping[str, Any], spec: FunctionSpec, settings: Settings, code: Code | None, content: str
    ) -> None:
        self.name: str = metadata["name"]
        self.spec = spec
        self.release = settings.release
        self.selector = {FUNCTION_LABEL: self.name}
        self.metadata = {
            "name": self.name,
            "namespace": metadata["namespace"],
            "labels": {
                **metadata.get("labels", {}),
                "app.kubernetes.io/name": self.name,
                "app.kubernetes.io/managed-by": "kubeirq",
                **self.selector,
            },
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
        if code is None:
            self.config_map, code = code_of(self.metadata, spec)
        else:
            self.config_map = self._config_map_without_data(code)
        self.pod_template = PodTemplate(
            metadata["namespace"], self.name, spec, settings, code.config_map, code.digest, content
        )

    def _config_map_without_data(self, code: Code) -> Object:
        if not code.config_map:
            return {}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**self.metadata, "name": code.config_map}}

    def deployment(self) -> Object:
        scale = self.spec.scale
        spec: Object = {
            "selector": {"matchLabels": self.selector},
            # the old version runs until the new one is ready, so that a broken new version stops nothing
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "revisionHistoryLimit": 5,
            "template": merged(self.pod_template.build(), self.spec.pod_template),
        }
        if not scale.is_automatic:
            spec["replicas"] = scale.min  # otherwise the autoscaler owns the field
        metadata = self.metadata
        if self.release:
            metadata = {**metadata, "annotations": {RELEASE_ANNOTATION: self.release}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}

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
                "unhealthyPodEvictionPolicy": "AlwaysAllow",  # a broken function blocks no node drain
            },
        }
