"""Reads the files that a Function's source names."""

from pathlib import Path

from controllers.functions.resource import FunctionSpec

_SKIPPED = frozenset({"__pycache__", "node_modules"})


class MissingFiles(Exception):
    """A file that the spec names does not exist. The text has the field and the problem."""


def files_of(spec: FunctionSpec, base: Path) -> dict[str, bytes]:
    """The function's files by their path in its folder; none if its code is elsewhere. Raises MissingFiles, OSError.

    `spec` has its handler; paths in it are relative to `base`. Hidden files are left out: they belong to tools.
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
    """The text of its dependencies. Raises MissingFiles."""
    path = spec.dependencies_path
    if path is None:
        return spec.dependencies or ""
    try:
        return (base / path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFiles(f"spec.dependenciesPath: {base / path}: {error}") from error


def module_file_of(spec: FunctionSpec) -> str:
    """The path of the file that the handler's module is imported from."""
    return f"{spec.handler.rpartition('.')[0].replace('.', '/')}.py"


def _read(field: str, path: Path, *, as_folder: bool) -> dict[str, bytes]:
    if path.is_file():
        return {path.name: path.read_bytes()}
    if not path.is_dir():
        raise MissingFiles(f"{field}: {path}: no such file or folder")
    root = path.parent if as_folder else path
    found = {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(_is_skipped(part) for part in file.relative_to(path).parts)
    }
    if not found:
        raise MissingFiles(f"{field}: {path}: the folder has no files")
    return found


def _is_skipped(part: str) -> bool:
    return part.startswith(".") or part in _SKIPPED
