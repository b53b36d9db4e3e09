"""Finds the faults of a Python function that would show only when it starts. Reads its files, and runs none of them."""

import ast
import importlib.util
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from controllers.functions.resource import FunctionSpec
from kubeirq.manifests.resources import Resource
from kubeirq.source_files import MissingFiles, files_of, paths_of, requirements_of
from trigger_sources.problems import Place, nearest

# The place below `spec`, the problem, and for a fault in a file of code that file and its line
CodeProblem = tuple[Place, str, tuple[Path, int] | None]

_VERSION = r"(?:~=|===?|!=|<=?|>=?)\s*[A-Za-z0-9*.+!_-]+"
_REQUIREMENT = re.compile(
    rf"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    rf"(?:\(?\s*{_VERSION}(?:\s*,\s*{_VERSION})*\s*,?\s*\)?)?\s*(?:;.+)?"
)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2")
_OF_THE_RUNTIME = frozenset({"__main__", "kubeirq_runtime", "httptools", "uvloop", "orjson"})


def code_problems(resource: Resource, *, runs_here: bool) -> Iterator[CodeProblem]:
    """The faults in the code and the dependencies of a Function whose files are here.

    Where the function will run on a newer Python than this one, this one cannot judge its code.
    """
    spec = resource.spec
    if not isinstance(spec, FunctionSpec) or not spec.runtime.startswith("python"):
        return
    try:
        at = (resource.file.parent, resource.project)
        files, places, requirements = files_of(spec, *at), paths_of(spec, *at), requirements_of(spec, *at)
    except (MissingFiles, OSError):
        return  # reported as missing
    yield from _requirement_problems(spec, requirements)
    if files and (runs_here or _version_of(spec.runtime) <= sys.version_info[:2]):
        yield from _Code(spec, files, places, requirements).problems()


class _Code:
    """The modules of one function."""

    def __init__(
        self,
        spec: FunctionSpec,
        files: Mapping[str, bytes],
        places: Mapping[str, Path],
        requirements: str,
    ) -> None:
        self._spec = spec
        self._places = places
        self._files = files
        self._requirements = requirements.lower()
        self._has_dependencies = _has_lines(requirements)
        self._trees: dict[str, ast.Module | None] = {}  # by path; None for a file that does not compile

    def problems(self) -> Iterator[CodeProblem]:
        for field, name in (("handler", self._spec.handler), ("startup", self._spec.startup),
                            ("shutdown", self._spec.shutdown)):  # fmt: skip
            if name:
                yield from self._of_hook(field, name)

    def _of_hook(self, field: str, name: str) -> Iterator[CodeProblem]:
        module, _, function = name.rpartition(".")
        path = self._path_of(module)
        if path is None:
            if not self._may_be_elsewhere(module):
                yield (field,), self._no_module(field, module), None
            return
        yield from self._of_file(path)
        tree = self._trees[path]
        if tree is not None and (defined := _names_in(tree)) is not None and function not in defined:
            yield (field,), f"{path} has no function {function!r}{nearest(function, _functions_in(tree))}", None
        elif tree is not None and (found := _plain_function(tree, function)) is not None:
            form = f"{function}(event, context)" if field == "handler" else f"{function}(context) or {function}()"
            if not _takes(found, (2,) if field == "handler" else (0, 1)):
                yield self._at(field, path, found.lineno, f"{function!r} has other arguments; write {form}")

    def _of_file(self, path: str) -> Iterator[CodeProblem]:
        """The problems of the file and of the own files that it imports."""
        if path in self._trees:
            return
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(self._files[path], path)
                compile(tree, path, "exec")  # finds `return` outside a function, and the like
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self._trees[path] = None
            line = getattr(error, "lineno", None) or 1
            message = getattr(error, "msg", None) or str(error) or "too complex"
            yield self._at("source", path, line, f"{type(error).__name__}: {message}")
            return
        self._trees[path] = tree
        for line, module in _imports_of(tree):
            found = self._path_of(module) or self._path_of(module.partition(".")[0])
            if found is not None:
                yield from self._of_file(found)
            elif (left_out := self._left_out(path, module)) is not None:
                way_out = f"{left_out} is beside it: add it to spec.source.include"
                yield self._at("source", path, line, f"no module {module!r} among the function's files; {way_out}")
            elif not self._may_be_elsewhere(module):
                way_out = "add its package to spec.dependencies, or its file to spec.source.include"
                yield self._at("source", path, line, f"no module {module!r}; {way_out}")

    def _path_of(self, module: str) -> str | None:
        stem = module.replace(".", "/")
        return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in self._files), None)

    def _left_out(self, path: str, module: str) -> str | None:
        """The file or folder with that module beside the function's files, which the function does not get."""
        place, top = self._places.get(path), module.partition(".")[0]
        if place is None or top in sys.stdlib_module_names or top.lower() in self._requirements:
            return None
        root = place.parents[path.count("/")]
        names = (f"{top}.py", f"{top}/__init__.py")
        return next((name for name in names if name not in self._files and (root / name).is_file()), None)

    def _may_be_elsewhere(self, module: str) -> bool:
        """Whether the module may come with Python, an image, the dependencies or the runtime."""
        top = module.partition(".")[0]
        if self._has_dependencies or self._spec.image is not None or top in sys.stdlib_module_names:
            return True
        if any(path.startswith(f"{top}/") for path in self._files):
            return True  # a namespace package
        return top in _OF_THE_RUNTIME or importlib.util.find_spec(top) is not None

    def _no_module(self, field: str, module: str) -> str:
        modules = sorted(path.removesuffix(".py") for path in self._files if path.endswith(".py") and "/" not in path)
        hint = f"; its files are {', '.join(sorted(self._files)[:5])}"
        if modules and field == "handler":
            hint += f"; rename the file, or set spec.handler: {modules[0]}.handler"
        return f"no module {module!r} among the function's files{hint}"

    def _at(self, field: str, path: str, line: int, message: str) -> CodeProblem:
        """A fault in a line of code. Where the code is in the manifest itself, the message has the line."""
        if path in self._places:
            return (field,), message, (self._places[path], line)
        return (field,), f"{path}, line {line}: {message}", None


def _version_of(runtime: str) -> tuple[int, ...]:
    return tuple(int(part) for part in runtime.removeprefix("python").split(".") if part.isdecimal())


def _requirement_problems(spec: FunctionSpec, requirements: str) -> Iterator[CodeProblem]:
    field = "dependencies" if spec.dependencies_path is None else "dependenciesPath"
    for number, line in _logical_lines(requirements):
        text = re.sub(r"\s--(hash|config-settings|global-option)\b.*", "", line).strip()
        if text.startswith("-") or "/" in text or text.endswith(_ARCHIVES) or _REQUIREMENT.fullmatch(text):
            continue
        yield (field,), f"line {number}: {text!r} is not a requirement; write name, name==1.2 or name>=1,<2", None


def _logical_lines(requirements: str) -> Iterator[tuple[int, str]]:
    """Each line with its number, without comments and joined where a line ends with a backslash."""
    joined, start = "", 1
    for number, line in enumerate(requirements.splitlines(), 1):
        if not joined:
            start = number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            joined += line[:-1] + " "
            continue
        whole, joined = joined + line, ""
        whole = re.sub(r"(^|\s)#.*", "", whole).strip()
        if whole:
            yield start, whole


def _has_lines(requirements: str) -> bool:
    return any(True for _ in _logical_lines(requirements))


def _imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The modules that the module surely imports when it starts: not those in a `try`, an `if` or a function."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


def _names_in(tree: ast.Module) -> set[str] | None:
    """The names that the module defines; None where only running it would tell."""
    found: set[str] = set()
    for node in _outside_functions(tree.body):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name == "__getattr__":
                return None
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            if node.id in ("globals", "setattr", "exec", "vars"):
                return None
            if isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def _plain_function(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function, if the module surely defines it once and as it is written: without a decorator."""
    found = [node for node in _outside_functions(tree.body) if name in _names_set_by(node)]
    if len(found) != 1 or not isinstance(found[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    return None if found[0].decorator_list else found[0]


def _names_set_by(node: ast.AST) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()


def _takes(function: ast.FunctionDef | ast.AsyncFunctionDef, numbers: Collection[int]) -> bool:
    """Whether the function can be called with one of these numbers of positional arguments."""
    given = function.args
    most = len(given.posonlyargs) + len(given.args)
    least = most - len(given.defaults)
    needs_names = any(default is None for default in given.kw_defaults)
    return not needs_names and any(least <= number and (number <= most or given.vararg) for number in numbers)


def _functions_in(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _outside_functions(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _outside_functions(list(ast.iter_child_nodes(node)))
