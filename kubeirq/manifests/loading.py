"""Loads the manifests of files and folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kubeirq.manifests.reader import Reader
from kubeirq.manifests.references import reference_problems, starting_problems
from kubeirq.manifests.resources import Resources
from trigger_sources.problems import Problem

SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv"})


def load(
    paths: Sequence[Path],
    secrets: Path | None = None,
    *,
    namespace: str = "default",
    complete: bool = True,
    thorough: bool = False,
) -> tuple[Resources, list[Problem]]:
    """The resources of these files and folders, and all their problems, by file and line.

    The files that a manifest names must be in the same one of the folders, or beside a manifest that is given itself.
    `secrets` is a folder with a folder for each Secret, with a file for each key. Resources without a namespace get
    `namespace`. If `complete`, everything that the resources refer to has to be in the files; otherwise it may be in a
    cluster. If `thorough`, the problems include those that stop only one function from starting, such as a syntax error
    in its code. `dev` and `serve` run the other functions meanwhile.
    """
    reader = Reader(namespace)
    for path in paths:
        if not path.exists():
            reader.problems.append(Problem(path, 1, "", "no such file or folder"))
        for file in manifest_files(path):
            reader.read(file, path if path.is_dir() else path.parent, in_folder=path.is_dir())
    if secrets is not None:
        reader.read_secrets(secrets)
    problems = {*reader.problems, *reference_problems(reader.found, reader.lines, reader.invalid_functions, complete)}
    if thorough:
        problems |= set(starting_problems(reader.found, reader.lines, complete))
    return Resources(reader.found, reader.foreign), sorted(problems)


def manifest_files(path: Path) -> Iterator[Path]:
    """The YAML files of a folder, sorted, without hidden ones and without folders of tools. A file yields itself.

    A link to a folder that it is in is left out.
    """
    yield from _manifest_files(path, frozenset())


def _manifest_files(path: Path, above: frozenset[Path]) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    whole = path.resolve()
    if whole in above or not path.is_dir():
        return
    for found in sorted(path.iterdir()):
        if found.name.startswith(".") or found.name in SKIPPED_FOLDERS:
            continue
        if found.is_dir():
            yield from _manifest_files(found, above | {whole})
        elif found.suffix in (".yaml", ".yml") and found.stem != "kustomization":
            yield found
