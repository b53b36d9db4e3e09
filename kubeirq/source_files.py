"""Reads the files that a Function's source names."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controllers.functions.resource import FunctionSpec

_SKIPPED = frozenset({"__pycache__", "node_modules"})


class MissingFiles(Exception):
    """A file that the spec names does not exist, or is not in the project. The text has the field and the problem."""


def files_of(spec: "FunctionSpec", base: Path, project: Path | None = None) -> dict[str, bytes]:
    """The function's files by their path in its folder; none if its code is elsewhere. Raises MissingFiles, OSError.

    `spec` has its handler; paths in it are relative to `base`. Hidden files are left out: they belong to tools.
    `project` is the folder that the files must be in, links resolved; unset: `base`.
    """
    source = spec.source
    files: dict[str, bytes] = {}
    if source.inline is not None:
        files[module_file_of(spec)] = source.inline.encode()
    elif source.files is not None:
        files |= {path: text.encode() for path, text in source.files.items()}
    return files | {path: file.read_bytes() for path, file in paths_of(spec, base, project).items()}


def paths_of(spec: "FunctionSpec", base: Path, project: Path | None = None) -> dict[str, Path]:
    """The places of the files that `path` and `include` name. Raises MissingFiles."""
    source, within = spec.source, (project or base).resolve()
    files: dict[str, Path] = {}
    if source.path is not None:
        files |= _found("spec.source.path", base / source.path, within, as_folder=False)
    for included in source.include:
        files |= _found("spec.source.include", base / included, within, as_folder=True)
    return files


def requirements_of(spec: "FunctionSpec", base: Path, project: Path | None = None) -> str:
    """The text of its dependencies. Raises MissingFiles."""
    if spec.dependencies_path is None:
        return spec.dependencies or ""
    path = base / spec.dependencies_path
    _check_within("spec.dependenciesPath", path, (project or base).resolve())
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFiles(f"spec.dependenciesPath: {path}: {error}") from error


def module_file_of(spec: "FunctionSpec") -> str:
    """The path of the file that the handler's module is imported from."""
    return f"{spec.handler.rpartition('.')[0].replace('.', '/')}.py"


def _found(field: str, path: Path, within: Path, *, as_folder: bool) -> dict[str, Path]:
    _check_within(field, path, within)
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise MissingFiles(f"{field}: {path}: no such file or folder")
    root = path.parent if as_folder else path
    found = {
        str(file.relative_to(root)): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(_is_skipped(part) for part in file.relative_to(path).parts)
    }
    if not found:
        raise MissingFiles(f"{field}: {path}: the folder has no files")
    for file in found.values():
        _check_within(field, file, within)
    return found


def _check_within(field: str, path: Path, within: Path) -> None:
    """Raises MissingFiles for a path that leads out of the project, also through a link: it could be any secret."""
    try:
        whole = path.resolve()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise MissingFiles(f"{field}: {path}: {error}") from error
    if not whole.is_relative_to(within):
        raise MissingFiles(
            f"{field}: {path} leads to {whole}, out of the project {within}; "
            "move it into the project, or give the command the folder that both are in"
        )


def _is_skipped(part: str) -> bool:
    return part.startswith(".") or part in _SKIPPED
