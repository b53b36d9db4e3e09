"""The desired state of the fabric on one machine: its functions and triggers, as the manifests define them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeirq.manifests.loading import load
from kubeirq.manifests.reader import is_unicode
from kubeirq.manifests.resources import EXAMPLE, InvalidManifests, Resource, Resources
from trigger_sources.credentials import digest_of
from trigger_sources.dispatch.flows import TriggerResource
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef, secret_refs

if TYPE_CHECKING:
    from controllers.functions.resource import FunctionSpec


@dataclass(frozen=True)
class FunctionResource:
    """A Function as its file has it."""

    namespace: str
    name: str
    spec: "FunctionSpec"
    base: Path  # paths in the spec are relative to this folder
    labels: Mapping[str, str] = field(default_factory=dict)
    project: Path | None = None  # the folder that its files must be in; None: the base


@dataclass(frozen=True)
class DesiredState:
    """The functions and triggers to run, and how to get the values of secrets and variables."""

    functions: Sequence[FunctionResource]
    triggers: Sequence[TriggerResource]
    secret: Callable[[str, SecretRef], str]  # by namespace and reference; raises MissingSecret
    environment: Callable[[FunctionResource], Mapping[str, str]]  # spec.env, resolved; raises MissingSecret


def starting_notes(paths: Sequence[Path], secrets: Path | None) -> list[str]:
    """A line for each problem that stops one function from starting, such as a wrong handler. Others run meanwhile."""
    return [str(problem) for problem in load(paths, secrets, thorough=True)[1]]


def load_desired_state(paths: Sequence[Path], secrets: Path | None) -> DesiredState:
    """Reads these files and folders. Raises InvalidManifests."""
    resources, problems = load(paths, secrets)
    if problems:
        raise InvalidManifests.of(problems)
    if not resources.triggers and not resources.functions:
        raise InvalidManifests(
            [f"{', '.join(map(str, paths))}: no resources found; `kubeirq new function NAME` writes a first one"]
        )

    def secret(namespace: str, reference: SecretRef) -> str:
        value = _value(resources, "Secret", namespace, reference.name, reference.key)
        if not is_unicode(value):
            raise MissingSecret(
                f"Secret {reference.name!r}: its key {reference.key!r} is not text, which is needed here"
            )
        return value

    def environment(function: FunctionResource) -> dict[str, str]:
        return _environment(function.spec, function.namespace, resources)

    return DesiredState(
        functions=[
            FunctionResource(
                found.namespace,
                found.name,
                found.spec,
                found.file.parent.absolute(),
                found.labels,
                None if found.project is None else found.project.absolute(),
            )
            for found in resources.functions
        ],
        triggers=[
            TriggerResource(
                found.kind,
                found.namespace,
                found.name,
                found.spec,
                uid=found.uid,  # made of names, so it is the same after every restart
                example=found.annotations.get(EXAMPLE, ""),
                secrets=_digest_of_secrets(found, resources),
            )
            for found in resources.triggers
        ],
        secret=secret,
        environment=environment,
    )


def _digest_of_secrets(trigger: Resource, resources: Resources) -> str:
    """Another text when a secret changes that any field of the trigger refers to: the trigger then starts again."""
    known = resources.secrets
    return digest_of(
        known.get((trigger.namespace, found.name), {}).get(found.key) for _, found in secret_refs(trigger.spec)
    )


def _environment(spec: "FunctionSpec", namespace: str, resources: Resources) -> dict[str, str]:
    """The variables of spec.envFrom, then of spec.env. Raises MissingSecret."""
    found: dict[str, str] = {}
    for part in spec.env_from:
        for field_name, known in (("secretRef", resources.secrets), ("configMapRef", resources.config_maps)):
            reference: dict[str, Any] | None = part.get(field_name)
            if reference is None:
                continue
            data = known.get((namespace, str(reference.get("name"))))
            if data is None and not reference.get("optional"):
                raise MissingSecret(
                    f"spec.envFrom: {field_name} {reference.get('name')!r} is not in the files; add its document"
                )
            prefix = part.get("prefix", "")
            found |= {f"{prefix}{key}": value for key, value in (data or {}).items()}
    for variable in spec.env:
        source = variable.value_from
        if source is None:
            found[variable.name] = variable.value or ""
        elif source.secret_key_ref is not None:
            key_ref = source.secret_key_ref
            found[variable.name] = _value(resources, "Secret", namespace, key_ref.name, key_ref.key)
        elif source.config_map_key_ref is not None:
            key_ref = source.config_map_key_ref
            found[variable.name] = _value(resources, "ConfigMap", namespace, key_ref.name, key_ref.key)
    for name, value in found.items():
        if "\0" in value:
            raise MissingSecret(
                f"spec.env: {name}: its value has a null byte, which no variable can hold; leave it out"
            )
    return found


def _value(resources: Resources, kind: str, namespace: str, name: str, key: str) -> str:
    data = (resources.secrets if kind == "Secret" else resources.config_maps).get((namespace, name))
    if data is None:
        raise MissingSecret(f"no {kind} {name!r} in namespace {namespace!r}; add its document, or use --secrets DIR")
    if key not in data:
        raise MissingSecret(f"{kind} {name!r} has no key {key!r}; add it to its document, or as a file to --secrets")
    return data[key]
