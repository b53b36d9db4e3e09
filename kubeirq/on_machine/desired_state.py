"""What is to run, from the files that say so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controllers.functions.resource import FunctionSpec
from kubeirq.manifests import Resources, load
from kubeirq.on_machine.fabric import FunctionResource, Wanted
from trigger_sources.dispatch.flows import TriggerResource
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef

EXAMPLE = "kubeirq.dev/example"  # the annotation of a trigger with an event that its function can make use of


class Problems(Exception):
    """Something is wrong with the resources: one line each, with its place."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def wanted_from(paths: Sequence[Path], secrets: Path | None) -> Wanted:
    """What these files and folders want to run. Raises Problems."""
    resources, problems = load(paths, secrets)
    if problems:
        raise Problems([str(problem) for problem in problems])
    if not resources.triggers and not resources.functions:
        raise Problems([f"{', '.join(map(str, paths))}: no resources; `kubeirq new function NAME` writes a first one"])

    def secret(namespace: str, reference: SecretRef) -> str:
        return _value(resources, "Secret", namespace, reference.name, reference.key)

    def environment(function: FunctionResource) -> dict[str, str]:
        return _environment(function.spec, function.namespace, resources)

    return Wanted(
        functions=[
            FunctionResource(found.namespace, found.name, found.spec, found.file.parent.absolute(), found.labels)
            for found in resources.functions
        ],
        triggers=[
            TriggerResource(
                found.kind,
                found.namespace,
                found.name,
                found.spec,
                uid=f"{found.namespace}/{found.kind}/{found.name}",  # the same after every restart
                example=found.annotations.get(EXAMPLE, ""),
            )
            for found in resources.triggers
        ],
        secret=secret,
        environment=environment,
    )


def _environment(spec: FunctionSpec, namespace: str, resources: Resources) -> dict[str, str]:
    """spec.envFrom, then spec.env. Raises MissingSecret."""
    found: dict[str, str] = {}
    for part in spec.env_from:
        for field, known in (("secretRef", resources.secrets), ("configMapRef", resources.config_maps)):
            reference: dict[str, Any] | None = part.get(field)
            if reference is None:
                continue
            data = known.get((namespace, str(reference.get("name"))))
            if data is None and not reference.get("optional"):
                raise MissingSecret(f"spec.envFrom: {field} {reference.get('name')!r}: not in the files")
            prefix = part.get("prefix", "")
            found |= {f"{prefix}{key}": value for key, value in (data or {}).items()}
    for variable in spec.env:
        chosen = variable.value_from
        if chosen is None:
            found[variable.name] = variable.value or ""
        elif chosen.secret_key_ref is not None:
            reference_ = chosen.secret_key_ref
            found[variable.name] = _value(resources, "Secret", namespace, reference_.name, reference_.key)
        elif chosen.config_map_key_ref is not None:
            reference_ = chosen.config_map_key_ref
            found[variable.name] = _value(resources, "ConfigMap", namespace, reference_.name, reference_.key)
    return found


def _value(resources: Resources, kind: str, namespace: str, name: str, key: str) -> str:
    data = (resources.secrets if kind == "Secret" else resources.config_maps).get((namespace, name))
    if data is None:
        raise MissingSecret(f"no {kind} {name!r} in namespace {namespace!r}: add its document, or --secrets DIR")
    if key not in data:
        raise MissingSecret(f"{kind} {name!r} has no key {key!r}: add it to its document, or as a file to --secrets")
    return data[key]
