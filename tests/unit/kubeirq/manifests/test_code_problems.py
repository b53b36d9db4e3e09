"""`check` finds the faults for which a function would not start, or a trigger not get its route."""

from pathlib import Path

import pytest

from kubeirq.manifests.loading import load

FUNCTION = "apiVersion: kubeirq.dev/v1\nkind: Function\nmetadata: {name: NAME}\nspec:\n  source: {path: SOURCE}\n"


def problems(folder: Path, files: dict[str, str], manifest: str = "", source: str = "orders.py") -> list[str]:
    """The problems of a Function `orders` with these files, without the folder in their places."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    text = FUNCTION.replace("NAME", "orders").replace("SOURCE", source) + manifest
    (folder / "app.yaml").write_text(text)
    assert load([folder])[1] == []  # `dev` runs the other functions
    return [str(problem).removeprefix(f"{folder}/") for problem in load([folder], thorough=True)[1]]


GOOD = "def handler(event, context):\n    return 1\n"


@pytest.mark.parametrize(
    "code",
    [
        GOOD,
        "def handler(*arguments):\n    return 1\n",
        "def handler(event, context=None, more=1, *, way='x'):\n    return 1\n",
        "def handler(event):\n    return 1\nhandler = print\n",
        "def wrapped(f): ...\n@wrapped\ndef handler(event): ...\n",
        "async def handler(event, context):\n    return 1\n",
        "class Handler:\n    def __call__(self, event, context): ...\nhandler = Handler()\n",
        "from functools import partial\nhandler = partial(print)\n",
        "import json as handler\n",
        "if True:\n    def handler(event, context): ...\nelse:\n    handler = None\n",
        "try:\n    import nowhere_to_be_found\nexcept ImportError:\n    pass\n" + GOOD,
        "def handler(event, context):\n    import nowhere_to_be_found\n",
        "globals()['handler'] = print\n",
        "def __getattr__(name): ...\n",
        "from nowhere import *\n",
        "with open('/dev/null') as handler:\n    pass\n",
        "import httptools, orjson, kubeirq_runtime, email.message, xml.etree.ElementTree\n" + GOOD,
    ],
)
def test_code_that_may_work_is_no_problem(code: str, tmp_path: Path) -> None:
    files = {"orders.py": code}
    if "nowhere import" in code:
        files |= {"nowhere.py": GOOD}
        assert problems(tmp_path, {"code/orders.py": code, "code/nowhere.py": GOOD}, source="code") == []
    else:
        assert problems(tmp_path, files) == []


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def handler(event, context)\n    return 1\n", "orders.py:1: SyntaxError: expected ':'"),
        (
            "\ndef handler(event):\n    return 1\n",
            "orders.py:2: 'handler' has other arguments; write handler(event, context)",
        ),
        ("async def handler(event, context, more): ...\n", "orders.py:1: 'handler' has"),
        ("class A: ...\ndef handler(event, context, *, way): ...\n", "orders.py:2: "),
        ("x = 1\nreturn x\n", "orders.py:2: SyntaxError: 'return' outside function"),
        ("def handler(e, c):\n\tif e:\n        return 1\n", "orders.py:3: TabError: "),
        ("x = '\0'\n", "orders.py:1: SyntaxError: source code string cannot contain null bytes"),
        (
            "def handle(event, context): ...\n",
            "app.yaml:4: spec.handler: orders.py has no function 'handler'; did you mean 'handle'?",
        ),
        ("", "app.yaml:4: spec.handler: orders.py has no function 'handler'"),
        (
            "import os\nimport reqests\n" + GOOD,
            "orders.py:2: no module 'reqests'; add its package to spec.dependencies,"
            " or its file to spec.source.include",
        ),
        ("from pandaz.core import x\n" + GOOD, "orders.py:1: no module 'pandaz.core'; add"),
    ],
)
def test_code_that_cannot_start_is_a_problem_at_its_line(code: str, problem: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, {"orders.py": code})
    assert found.startswith(problem)


def test_a_file_beside_the_function_that_is_not_included_is_found_also_where_there_are_dependencies(
    tmp_path: Path,
) -> None:
    code = {"orders.py": "from catalog import PRICES\nimport vendored\n" + GOOD, "catalog.py": "PRICES = {}\n"}
    code["vendored/__init__.py"] = ""
    assert problems(tmp_path, code, "  dependencies: vendored==1.0\n") == [
        "orders.py:1: no module 'catalog' among the function's files; catalog.py is beside it: add it to"
        " spec.source.include"
    ]


def test_a_module_that_the_handler_imports_is_checked_and_one_that_nothing_imports_is_not(tmp_path: Path) -> None:
    files = {"code/orders.py": "import shop.prices\n" + GOOD, "code/old.py": "print 'python 2'\n",
             "code/shop/__init__.py": "", "code/shop/prices.py": "def broken(:\n"}  # fmt: skip
    (found,) = problems(tmp_path, files, source="code")
    assert found.startswith("code/shop/prices.py:1: SyntaxError")


def test_a_file_with_another_name_than_the_function_needs_a_handler(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, {"main.py": GOOD}, source="main.py")
    assert found == (
        "app.yaml:4: spec.handler: no module 'orders' among the function's files; its files are main.py;"
        " rename the file, or set spec.handler: main.handler"
    )
    assert problems(tmp_path, {"main.py": GOOD}, "  handler: main.handler\n", source="main.py") == []


def test_hooks_are_checked_like_the_handler(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, {"orders.py": GOOD}, "  startup: orders.start\n")
    assert found == "app.yaml:6: spec.startup: orders.py has no function 'start'; known: handler"


def test_inline_code_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        FUNCTION.replace("NAME", "orders").replace("{path: SOURCE}", "{inline: 'def handler(:'}")
    )
    (found,) = load([tmp_path], thorough=True)[1]
    assert str(found).startswith(f"{tmp_path}/a.yaml:5: spec.source: orders.py, line 1: SyntaxError")


@pytest.mark.parametrize(
    "line",
    ["requests", "requests==2.32.3", "requests >= 2, < 3 # why", "a[b,c]~=1.0; python_version < '3.13'", "-r more.txt",
     "--index-url https://x/y", "a @ https://x/a.whl", "./local", "thing-1.0-py3-none-any.whl", "# none", "", "a (>=1)",
     "a==1.0 --hash=sha256:00", "a==1.0 \\\\\n    --hash=sha256:00"],
)  # fmt: skip
def test_requirements_that_pip_reads(line: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(line.replace("\\\\", "\\"))
    assert problems(tmp_path, {"orders.py": GOOD}, "  dependenciesPath: requirements.txt\n") == []


@pytest.mark.parametrize("line", ["reqests==", "a b", "==1", "a==1,,", "a=1", "[x]", "a>=", "ä"])
def test_requirements_that_pip_refuses(line: str, tmp_path: Path) -> None:
    manifest = f"  dependencies: |\n    # first\n    {line}\n"
    (found,) = problems(tmp_path, {"orders.py": GOOD}, manifest)
    assert found == (
        f"app.yaml:6: spec.dependencies: line 2: {line!r} is not a requirement; write name, name==1.2 or name>=1,<2"
    )


VARIABLES = """  env:
  - {name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}
  - {name: B, valueFrom: {configMapKeyRef: {name: c, key: k}}}
  envFrom:
  - secretRef: {name: all}
  - configMapRef: {name: maybe, optional: true}
"""


def test_secrets_and_config_maps_of_variables_have_to_be_there(tmp_path: Path) -> None:
    assert problems(tmp_path, {"orders.py": GOOD}, VARIABLES) == [
        "app.yaml:7: spec.env[0].valueFrom.secretKeyRef: no Secret 's' in these files; add a Secret document,"
        " or give the folder that `serve` or `dev` gets: --secrets DIR",
        "app.yaml:8: spec.env[1].valueFrom.configMapKeyRef: no ConfigMap 'c' in these files; add a ConfigMap document",
        "app.yaml:10: spec.envFrom[0].secretRef: no Secret 'all' in these files; add a Secret document,"
        " or give the folder that `serve` or `dev` gets: --secrets DIR",
    ]
    documents = "\n---\n".join(
        f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n{part}: {{{key}: x}}\n"
        for kind, name, part, key in (
            ("Secret", "s", "stringData", "other"), ("ConfigMap", "c", "data", "k"),
            ("Secret", "all", "stringData", "k"),
        )
    )  # fmt: skip
    (tmp_path / "data.yaml").write_text(documents)
    (found,) = [str(problem) for problem in load([tmp_path], thorough=True)[1]]
    assert found.endswith("spec.env[0].valueFrom.secretKeyRef: Secret 's' has no key 'k'; known: other")
    assert load([tmp_path], thorough=True, complete=False)[1] == []  # the cluster may have them


def route(name: str, **spec: object) -> str:
    fields = "".join(f", {field}: {value}" for field, value in spec.items())
    return (
        f"---\napiVersion: kubeirq.dev/v1\nkind: HTTPTrigger\nmetadata: {{name: {name}}}\n"
        f"spec: {{function: orders{fields}}}\n"
    )


def test_two_triggers_on_one_route_are_a_problem(tmp_path: Path) -> None:
    triggers = route("a", path="/x") + route("b", path="/x") + route("c", path="/y") + route("d", path="/x", host="h")
    (found,) = problems(tmp_path, {"orders.py": GOOD}, triggers)
    assert found.startswith("app.yaml:15: spec.path: POST /x is already served by HTTPTrigger 'a', ")


def test_a_suspended_trigger_may_wait_for_the_route_of_another(tmp_path: Path) -> None:
    triggers = route("a", path="/x") + route("b", path="/x", suspend="true")
    assert problems(tmp_path, {"orders.py": GOOD}, triggers) == []
