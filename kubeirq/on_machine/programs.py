"""Prepares a Function to run on one machine: copies its code to a folder named by its content, and sets variables."""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kubeirq.on_machine.environments import cache_folder, interpreter_for
from kubeirq.on_machine.program_runner import Program
from kubeirq.source_files import MissingFiles, files_of, requirements_of

if TYPE_CHECKING:
    from controllers.functions.resource import FunctionSpec

# A function gets only these variables of the shell, so that it depends on no others, as in a pod
_INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)
_START_SECONDS = 60.0
_GRACE_SECONDS = 30.0
_DEBUG_STOP_SECONDS = 2.0  # of a version that may wait at a breakpoint


class InvalidFunction(Exception):
    """The Function's spec has a problem. The text has field, problem and way out."""


async def prepare_program(
    spec: "FunctionSpec",
    *,
    namespace: str,
    name: str,
    base: Path,
    state: Path,
    environment: Mapping[str, str],
    show: Callable[[str], None],
    debug_port: int | None = None,
    project: Path | None = None,
) -> Program:
    """The program for the current files of the function. Raises InvalidFunction, InstallFailed, OSError.

    `base` is the folder of the manifest, `project` the folder that the files must be in. `environment` has the resolved
    values of spec.env.
    """
    if not spec.runtime.startswith("python"):
        raise InvalidFunction(
            f"spec.runtime: {spec.runtime!r} cannot run on one machine yet; use Python, or deploy to a cluster"
        )
    module, _, handler = spec.handler.rpartition(".")
    try:
        files, requirements = files_of(spec, base, project), requirements_of(spec, base, project)
    except MissingFiles as error:
        raise InvalidFunction(str(error)) from error
    if not files:
        raise InvalidFunction(
            "spec.source: one machine cannot run this source yet; use path, inline or files, or deploy to a cluster"
        )
    folder = _code_folder(files, state / "functions" / namespace / name)
    python = await interpreter_for(requirements, label=name, show=show, cache=cache_folder())
    variables = {
        **{variable: value for variable, value in os.environ.items() if variable in _INHERITED},
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
        "MOD_NAME": module,
        "FUNC_HANDLER": handler,
        "FUNC_HOST": "127.0.0.1",
        "FUNC_NAME": name,
        "FUNC_NAMESPACE": namespace,
        # On one machine every function runs on the Python of the fabric, also if the spec names another version
        "FUNC_RUNTIME": f"python{sys.version_info[0]}.{sys.version_info[1]}",
        "FUNC_TIMEOUT": f"{spec.timeout_seconds:g}",
        "FUNC_MEMORY_LIMIT": "0",
        "FUNC_GRACE": f"{_GRACE_SECONDS:g}",
        "KUBEIRQ_CODE_PATH": str(folder),
    }
    if not spec.failure_detail:
        variables["FUNC_FAILURE_DETAIL"] = "0"
    if spec.concurrency is not None:
        variables["FUNC_CONCURRENCY"] = str(spec.concurrency)
    hooks = {"FUNC_STARTUP": spec.startup, "FUNC_SHUTDOWN": spec.shutdown}
    variables |= {variable: hook for variable, hook in hooks.items() if hook}
    command = [str(python), str(_runtime_server())]
    if debug_port is not None:
        debugger = importlib.util.find_spec("debugpy")
        if debugger is None or debugger.origin is None:
            raise InvalidFunction("--debug: debugpy is not installed; run `pip install debugpy`")
        # The author's own files run, not their copy: the editor's breakpoints are in them
        roots = [str(root) for root in _roots(spec, base)] or [str(folder)]
        paths = [*roots[1:], str(Path(debugger.origin).parent.parent), variables.get("PYTHONPATH", "")]
        variables |= {
            "KUBEIRQ_CODE_PATH": roots[0],
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "KUBEIRQ_DEBUG_PORT": str(debug_port),
            "FUNC_CONCURRENCY": "1",
        }
    origin = _source_folder(spec, base)
    stop_seconds = _GRACE_SECONDS + 7 if debug_port is None else _DEBUG_STOP_SECONDS
    return Program(
        tuple(command), folder, variables, origin, _START_SECONDS, stop_seconds, alone=debug_port is not None
    )


def discard_unused(folder: Path, used: Sequence[Path]) -> None:
    """Removes the code folders that no process uses any more."""
    for found in folder.iterdir() if folder.is_dir() else ():
        if found not in used:
            shutil.rmtree(found, ignore_errors=True)


def _runtime_server() -> Path:
    import runtimes.python

    return Path(runtimes.python.__path__[0]) / "server.py"


def _source_folder(spec: "FunctionSpec", base: Path) -> Path | None:
    if spec.source.path is None:
        return None
    path = base / spec.source.path
    return path if path.is_dir() else path.parent


def _roots(spec: "FunctionSpec", base: Path) -> list[Path]:
    """The author's folders that the function's modules are imported from, without links, each once."""
    origin = _source_folder(spec, base)
    if origin is None:
        return []
    included = [(base / path).parent for path in spec.source.include]
    return list(dict.fromkeys(path.resolve() for path in (origin, *included)))


def _code_folder(files: Mapping[str, bytes], parent: Path) -> Path:
    """Writes the files into a folder named by their content. The folder appears only when it is complete."""
    digest = hashlib.sha256(sys.version.encode())
    for name, data in sorted(files.items()):
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(data)))
        digest.update(data)
    folder = parent.absolute() / digest.hexdigest()[:16]
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
    try:
        for name, data in files.items():
            target = building / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
