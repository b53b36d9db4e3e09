"""The spec of a Function: its code, its runtime and its scale. Pure."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from controllers.functions import runtimes
from trigger_sources.spec import Spec


class KeyRef(Spec):
    """One key of a Secret or ConfigMap in the function's namespace."""

    name: str = Field(min_length=1, description="The name of the Secret or ConfigMap")
    key: str = Field(min_length=1, description="A key of it")


class ValueFrom(Spec):
    """The source of a variable's value: exactly one of these."""

    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret")
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap")

    @model_validator(mode="after")
    def _exactly_one(self) -> "ValueFrom":
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise ValueError("exactly one of secretKeyRef, configMapKeyRef is needed")
        return self


class Variable(Spec):
    """An environment variable, as in a container."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="The variable's name")
    value: str | None = Field(None, description="Its value")
    value_from: ValueFrom | None = Field(None, description="The place of its value, instead of value")


class ConfigMapFile(Spec):
    """A file of code in a ConfigMap of the function's namespace."""

    name: str = Field(min_length=1, description="The ConfigMap's name")
    key: str = Field(min_length=1, description="The key that has the file")


class Source(Spec):
    """The location of the code: exactly one of path, inline, files, url, configMap, image."""

    path: str | None = Field(
        None,
        min_length=1,
        description="A file or folder, relative to the YAML file; on a cluster, `kubeirq deploy` sends it",
    )
    include: list[str] = Field(default_factory=list, description="Further files or folders that go with path")
    inline: str | None = Field(None, description="The text of the module")
    files: dict[str, str] | None = Field(None, description="The texts of several files, by their paths")
    url: str | None = Field(
        None,
        pattern=r"^https://[^/?#@]*([/?#]|$)",
        description="The address of an archive or a file, without a login, on a cluster; it goes with sha256",
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="The SHA-256 digest of that archive or file"
    )
    authorization: KeyRef | None = Field(
        None,
        description="The value of the header Authorization for url, such as `Bearer …`: a key of a Secret in the"
        " function's namespace",
    )
    config_map: ConfigMapFile | None = Field(None, description="A file in a ConfigMap, on a cluster")
    image: str | None = Field(None, min_length=1, description="An image that has the code in it, on a cluster")

    @field_validator("files")
    @classmethod
    def _paths_inside(cls, files: dict[str, str] | None) -> dict[str, str] | None:
        if files is None:
            return None
        if not files:
            raise ValueError("at least one file is needed")
        for path in files:
            parts = path.split("/")
            if any(part in ("", ".") or part.startswith("..") for part in parts):
                raise ValueError(f"{path!r} is not a relative path inside the folder, such as shop/prices.py")
            if folder := next((f for n in range(1, len(parts)) if (f := "/".join(parts[:n])) in files), None):
                raise ValueError(f"{folder!r} is a file and cannot also be the folder of {path!r}")
        return files

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        names = {"path": "path", "inline": "inline", "files": "files", "url": "url", "config_map": "configMap",
                 "image": "image"}  # fmt: skip
        given = [shown for name, shown in names.items() if getattr(self, name) is not None]
        if len(given) != 1:
            known = ", ".join(names.values())
            raise ValueError(f"exactly one of {known} is needed; given: {', '.join(given) or 'none'}")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("url and sha256 go together")
        if self.authorization is not None and self.url is None:
            raise ValueError("authorization goes with url only")
        if self.include and self.path is None:
            raise ValueError("include goes with path only")
        for path in (self.path, *self.include):
            if path is not None and path.startswith("/"):
                raise ValueError(f"{path!r} is absolute; paths are relative to the YAML file")
        return self


class Scale(Spec):
    """The number of replicas of a function on a cluster. If max is greater than min, the load decides."""

    min: int = Field(1, ge=1, le=1_000, description="The least number of replicas")
    max: int | None = Field(
        None, ge=1, le=1_000, description="The largest number of replicas; unset: min, without scaling"
    )
    cpu_percent: int = Field(
        80, ge=1, le=1_000, description="The load, in percent of resources.requests.cpu, above which replicas are added"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Scale":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max: {self.max} is less than min, {self.min}")
        return self

    @property
    def is_automatic(self) -> bool:
        return self.max is not None and self.max > self.min


class FunctionSpec(Spec):
    """A function: its code, its runtime and its limits."""

    runtime: str = Field(
        runtimes.DEFAULT,
        description="The language and its version; one machine runs every Python on the fabric's own interpreter",
    )
    image: str | None = Field(
        None, min_length=1, description="An image of yours in place of the runtime's own, on a cluster"
    )
    handler: str = Field(
        "",
        description="module.function; unset: the function `handler` in the module of the Function's name, with _ for -",
    )
    source: Source = Field(description="The code: exactly one of path, inline, files, url, configMap, image")
    dependencies: str | None = Field(
        None, description="The text of the language's own file of dependencies, for Python requirements.txt"
    )
    dependencies_path: str | None = Field(
        None, description="That file's path instead, relative to the YAML file; on a cluster, `kubeirq deploy` sends it"
    )
    timeout_seconds: float = Field(
        30, gt=0, le=86_400, description="The longest time that a call may take; a longer one is answered 408"
    )
    concurrency: int | None = Field(
        None, ge=1, le=10_000, description="Calls at once in a process; unset: 1, for `async def` 16"
    )
    failure_detail: bool = Field(
        True,
        description="Whether the fabric learns the type, the message and the last line of code of an exception, and"
        " shows them to people who may see its events",
    )
    startup: str | None = Field(
        None, description="module.function that runs once in each process, before the first call"
    )
    shutdown: str | None = Field(
        None, description="module.function that runs once in each process, after the last call"
    )
    env: list[Variable] = Field(default_factory=list, description="Environment variables, as in a container")
    env_from: list[dict[str, Any]] = Field(
        default_factory=list, description="ConfigMaps and Secrets whose keys become variables, as in a container"
    )
    resources: dict[str, Any] = Field(default_factory=dict, description="Requests and limits, as in a container")
    scale: Scale = Field(default_factory=Scale, description="The number of replicas; on one machine there is one")
    pod_template: dict[str, Any] = Field(
        default_factory=dict, description="Merged into the pod on a cluster, as `kubectl patch` would merge it"
    )

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, value: str) -> str:
        if value not in runtimes.NAMES:
            raise ValueError(f"unknown runtime {value!r}; available: {', '.join(runtimes.NAMES)}")
        return value

    @field_validator("handler", "startup", "shutdown")
    @classmethod
    def _module_and_function(cls, value: str | None) -> str | None:
        if value and not all(part.isidentifier() for part in value.split(".")):
            raise ValueError(f"{value!r} is not of the form module.function")
        if value and "." not in value:
            raise ValueError(f"{value!r} has no module; write module.function")
        return value

    @model_validator(mode="after")
    def _one_source_of_dependencies(self) -> "FunctionSpec":
        if self.dependencies is not None and self.dependencies_path is not None:
            raise ValueError("set only one of dependencies, dependenciesPath")
        return self

    @model_validator(mode="after")
    def _cpu_request_for_autoscaling(self) -> "FunctionSpec":
        cpu = any("cpu" in (self.resources.get(part) or {}) for part in ("requests", "limits"))
        if self.scale.is_automatic and not cpu:
            raise ValueError("scale.max: set resources.requests.cpu too; the load is measured as a percentage of it")
        return self

    def named(self, name: str) -> "FunctionSpec":
        """The spec with its handler. The default handler depends on the function's name."""
        return self if self.handler else self.model_copy(update={"handler": f"{name.replace('-', '_')}.handler"})
