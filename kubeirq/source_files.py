"""The files that a Function's source names, as they are on this machine now."""

from pathlib import Path

from controllers.functions.resource import FunctionSpec

_SKIPPED = frozenset({"__pycache__", "node_modules"})


class NoFiles(Exception):
    """What the source names is not there: field, problem."""


def files_of(spec: FunctionSpec, base: Path) -> dict[str, bytes]:
    """The function's files by their path in its folder; empty where its code is elsewhere. Raises NoFiles, OSError.

    `spec` has its handler; paths in it are relative to `base`. What is hidden is left out: it belongs to tools.
    """
    source = spec.source
    files: dict[str, bytes] = {}
    if source.inline is not None:
        files[module_file_of(spec)] = source.inline.encode()
    elif source.files is not None:
        files |= {path: text.encode() for path, text in source.files.items()}
    elif source.path is not None:
        files |= _read("spec.source.path", base / source.path, as_folder=False)
    for included in source.include:
        files |= _read("spec.source.include", base / included, as_folder=True)
    return files


def requirements_of(spec: FunctionSpec, base: Path) -> str:
    """The text of its dependencies. Raises NoFiles."""
    path = spec.dependencies_path
    if path is None:
        return spec.dependencies or ""
    try:
        return (base / path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NoFiles(f"spec.dependenciesPath: {base / path}: {error}") from error


def module_file_of(spec: FunctionSpec) -> str:
    """Where the module of the handler is looked for."""
    return f"{spec.handler.rpartition('.')[0].replace('.', '/')}.py"


def _read(field: str, path: Path, *, as_folder: bool) -> dict[str, bytes]:
    if path.is_file():
        return {path.name: path.read_bytes()}
    if not path.is_dir():
        raise NoFiles(f"{field}: {path}: no such file or folder")
    root = path.parent if as_folder else path
    found = {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(_is_skipped(part) for part in file.relative_to(path).parts)
    }
    if not found:
        raise NoFiles(f"{field}: {path}: no file is in it")
    return found


def _is_skipped(part: str) -> bool:
    return part.startswith(".") or part in _SKIPPED
