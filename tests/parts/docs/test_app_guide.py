"""The app guide in docs: its files are written and its commands are run, in their order, and its output is compared.

A block that begins with a file's name is that file. A `text` block is the output of the command before it, or of the
first terminal where the sentence above says so; `…` stands for any text. `-s` prints the commands, and the blocks that
are not run with the reason.
"""

import asyncio
import configparser
import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from servers.debugger import attached, stopped_at
from servers.kubernetes import MORTAL
from servers.pages import Block, blocks_of
from servers.ports import free_port
from servers.terminals import BIN, SECONDS, Terminals, commands_of, until

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = list(blocks_of(ROOT / "docs" / "app-guide.md"))
pytestmark = pytest.mark.timeout(1200)  # a whole app, on a busy machine, too

ON_THIS_MACHINE = [
    "An empty folder",
    "Dependencies, modules and a shared folder",
    "Settings and Secrets",
    "A unit test",
    "A debugger",
    "Backup",
]
# By the first command of the block: the reason, and the test that covers it
NOT_RUN = {
    "python3 -m venv ~/shop/.venv": (
        "the tests' own environment has all of it",
        "tests/release_check.py::run_example",
    ),
    "sudo useradd --system --user-group --home-dir /srv/shop shop": (
        "it needs root and systemd; the unit's own commands are run",
        "tests/parts/docs/test_app_guide.py::test_the_unit_serves_the_shop",
    ),
    "podman build --file shop.Containerfile --tag shop .": (
        "the base image is in a registry; the container's own command is run",
        "tests/parts/docs/test_app_guide.py::test_the_container_serves_the_shop",
    ),
    "helm install kubeirq ~/kubeirq/helm/kubeirq --namespace kubeirq --create-namespace --values values.yaml": (
        "it needs a cluster",
        "tests/api/docs/test_app_guide_cluster.py::test_the_shop_is_deployed_to_a_cluster",
    ),
    "kubeirq deploy app settings/cluster.yaml --secrets secrets --namespace shop": (
        "it needs a cluster",
        "tests/api/docs/test_app_guide_cluster.py::test_the_shop_is_deployed_to_a_cluster",
    ),
    "kubectl port-forward --namespace kubeirq service/kubeirq-gateway 8080:80": (
        "it needs pods",
        "tests/cluster/test_triggers_run.py::test_the_orders_of_the_example_flow_through_all_four_triggers",
    ),
    "kubectl --namespace kubeirq scale statefulset kubeirq-store --replicas 0": (
        "it needs pods; the objects that it names are checked",
        "tests/api/docs/test_app_guide_cluster.py::test_the_shop_is_deployed_to_a_cluster",
    ),
    "sudo systemctl stop shop": (
        "it needs root and systemd; another version goes on with the state of this one",
        "tests/parts/kubeirq/on_machine/test_upgrade.py::"
        "test_held_parked_and_dead_events_of_version_0_1_0_are_taken_over",
    ),
    "helm upgrade kubeirq ~/kubeirq/helm/kubeirq --namespace kubeirq --values values.yaml": (
        "it needs a cluster with pods",
        "tests/cluster/alone/test_controllers_come_and_go.py::test_an_upgrade_of_the_controllers_repeats_nothing",
    ),
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pip, in place of an index: the functions' dependencies, as they are installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection"):
        repack(name, folder)
    for name in ("httptools", "uvloop"):  # the runtime's own
        repack(name, folder)
    return folder


def repack(name: str, folder: Path) -> None:
    """The wheel from which this distribution was installed, made of its files."""
    found = importlib.metadata.distribution(name)
    tag = re.findall(r"^Tag: (.*)$", found.read_text("WHEEL") or "", re.MULTILINE)[0]
    file = folder / f"{name.replace('-', '_')}-{found.version}-{tag}.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for path in found.files or ():
            if path.parts[0] != ".." and "__pycache__" not in path.parts:
                wheel.write(str(path.locate()), str(path))


@pytest.fixture
def environment(wheels: Path) -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_NO_BUILD_ISOLATION": "0"}


# --- on this machine


async def test_the_shop_grows(tmp_path: Path, environment: dict[str, str]) -> None:
    async with terminals(tmp_path / "h", environment) as they:
        editor: Editor | None = None
        for block in blocks_in(ON_THIS_MACHINE):
            if block.file is not None:
                await save(they, block)
                if block.file == ".vscode/launch.json":
                    editor = Editor(they, json.loads(block.text.partition("\n")[2]))
            elif block.language == "console" and editor is not None:
                await editor.type(block)
                editor = None
            elif block.language == "console":
                await they.type(block)
            else:
                await they.shows(block)


async def save(they: Terminals, block: Block) -> None:
    """Writes the file. While `kubeirq dev app` runs, returns once the functions of this version are there."""
    assert block.file is not None
    before = await pids(they) if they.is_running and block.file.startswith("app/") else {}
    block.write(they.home / "shop")
    if before:

        async def is_there() -> bool:
            return await they.all_ready() and (await pids(they)).items().isdisjoint(before.items())

        await until(is_there)


async def pids(they: Terminals) -> dict[str, int]:
    return {found["name"]: found["pid"] for found in (await they.status())["functions"]}


class Editor:
    """An editor with the configuration of the page."""

    def __init__(self, they: Terminals, configurations: Mapping[str, Any]) -> None:
        self._they = they
        self._connect = configurations["configurations"][0]["connect"]

    async def type(self, block: Block) -> None:
        """A call stops in the handler, at the first line of its body, and goes on."""
        file = self._they.home / "shop" / "app" / "orders.py"
        line = file.read_text().splitlines().index("def handler(event, context):") + 2
        # debugpy has the page's port unless another program has it
        said = re.search(r"debug orders: 127\.0\.0\.1:(\d+)", "\n".join(self._they.first_lines))
        assert said is not None
        assert self._connect == {"host": "127.0.0.1", "port": 5678}
        async with attached("127.0.0.1", int(said[1]), file, line) as editor:
            typing = asyncio.create_task(self._they.type(block))
            assert await stopped_at(editor) == (str(file), line)
            await typing


# --- on a server


async def test_the_unit_serves_the_shop(tmp_path: Path, environment: dict[str, str]) -> None:
    page = block_of("shop.service").text
    unit = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(page)
    service = unit["Service"]
    place = Place(tmp_path)
    verify(place, page)
    variables = dict(one.split("=", 1) for one in shlex.split(place.here(service["Environment"])))
    with notify_socket(tmp_path / "notify") as manager, mail_server() as mails:
        place.write_shop(mails.address)
        variables["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        async with served(place, shlex.split(service["ExecStart"]), {**environment, **variables}) as process:
            assert await received(manager) == b"READY=1"
            await order(place, "Ada")
            await mails.has("Bearer a-token-for-mail", "dear Ada, your tea is 4.00 euros")
            await mails.has("Bearer a-token-for-mail", "orders today: 1, 4.00 euros")
            place.path("/srv/shop/secrets/mail/token").write_text("the-next-token")
            reload = service["ExecReload"].replace("$MAINPID", str(process.pid))
            await asyncio.to_thread(subprocess.run, shlex.split(reload), check=True)
            await mails.gets_by(lambda: order(place, "Bob"), "Bearer the-next-token")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                assert await process.wait() == 0
            assert await received(manager) == b"STOPPING=1"
    assert service["KillMode"] == "mixed"


def verify(place: "Place", unit: str) -> None:
    """systemd's own verdict, where it is installed. It looks whether the programs are there."""
    if shutil.which("systemd-analyze") is None:
        print("systemd-analyze is not installed: the unit is only parsed")
        return
    file = place.folder / "shop.service"
    file.write_text(place.here(unit))
    ran = subprocess.run(["systemd-analyze", "verify", str(file)], check=False, capture_output=True, text=True)
    ours = [line for line in ran.stderr.splitlines() if "shop.service" in line]
    assert ours == [], ran.stderr


async def test_the_container_serves_the_shop(tmp_path: Path, environment: dict[str, str]) -> None:
    place = Place(tmp_path)
    variables: dict[str, str] = {}
    with mail_server() as mails:
        place.write_shop(mails.address)
        async with terminals(tmp_path / "h", environment) as they:
            they.folder = place.path("/srv/shop")
            await they.type(next(block for block in blocks_in(["A container"]) if block.language == "console"))
        lines = [line.partition(" ")[::2] for line in block_of("shop.Containerfile").text.splitlines()[1:]]
        for instruction, rest in lines:
            match instruction:
                case "FROM":
                    assert f"ARG BASE={rest}\n" in (ROOT / "images" / "controllers.Containerfile").read_text()
                case "COPY":
                    assert place.path("/srv/shop", rest.split()[0]).is_dir(), rest
                case "RUN":
                    for command in rest.split("&&"):
                        assert shutil.which(command.split()[0]), command
                case "ENV":
                    name, _, value = place.here(rest).partition("=")
                    variables[name] = value
                case "CMD":
                    command = json.loads(rest)
                case "VOLUME":
                    assert rest in command_of("podman run")
                case "USER" | "EXPOSE":
                    pass
                case _:
                    raise AssertionError(instruction)
        (wheel,) = place.path("/srv/shop/wheels").glob("kubeirq-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
            assert f"{command[0]} = ".encode() in archive.read(entries)
        async with served(place, command, {**environment, **variables}) as process:
            await order(place, "Ada")
            await mails.has("Bearer a-token-for-mail", "dear Ada, your tea is 4.00 euros")
            await mails.has("Bearer a-token-for-mail", "orders today: 1, 4.00 euros")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                assert await process.wait() == 0


class Place:
    """The folders of a server, within a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http_port = free_port()

    def here(self, text: str) -> str:
        text = text.replace("/srv/shop/.venv/bin", str(BIN))
        return re.sub(r"/(srv|var/lib)/shop", lambda found: str(self.folder / found[1] / "shop"), text)

    def path(self, *names: str) -> Path:
        return Path(self.here("/".join(names)))

    def write_shop(self, mail: str) -> None:
        """All files of the page, as they are at its end, and its Secrets."""
        shop = self.path("/srv/shop")
        self.path("/var/lib/shop").mkdir(parents=True)
        for block in BLOCKS:
            if block.file is not None:
                block.write(shop)
        orders = shop / "app" / "orders.yaml"
        orders.write_text(orders.read_text().replace('"0 18 * * *"', '"* * * * * *"'))  # no test waits for the evening
        settings = shop / "settings" / "server.yaml"
        settings.write_text(self.here(settings.read_text()).replace("https://mail.example/send", mail))
        for text, name in re.findall(r"printf '(.*)' > (\S+)", "".join(block.text for block in BLOCKS)):
            (shop / name).parent.mkdir(parents=True, exist_ok=True)
            (shop / name).write_text(text)


@contextlib.asynccontextmanager
async def served(
    place: Place, command: list[str], variables: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command runs as it does on a server, but at free ports. Its output is shown if the test fails."""
    words = [place.here(word) for word in command]
    words[0] = str(BIN / Path(words[0]).name)
    log = place.folder / "log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "XDG_"))}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *MORTAL, *words, "--http-port", str(place.http_port), "--metrics-port", "0",
            stdout=output, stderr=output, env={**inherited, **variables},
        )  # fmt: skip
    try:
        yield process
    except BaseException:
        print(log.read_text())
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def order(place: Place, customer: str) -> None:
    """As a customer who tries again until the shop is open."""
    headers = {"authorization": "Bearer a-token-of-callers"}
    body = {"customer": customer, "item": "tea"}

    async def is_taken() -> bool:
        async with aiohttp.ClientSession() as session:
            try:
                url = f"http://127.0.0.1:{place.http_port}/orders"
                async with session.post(url, json=body, headers=headers) as answer:
                    return answer.status == 202
            except aiohttp.ClientError:
                return False

    await until(is_taken)


class Mails:
    """The far side of the function `mail`: the logins and texts that it was sent."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.came: list[tuple[str, str]] = []

    async def has(self, login: str, text: str) -> None:
        async def is_there() -> bool:
            return (login, text) in self.came

        await until(is_there)

    async def gets_by(self, act: Any, login: str) -> None:
        """Acts until a mail comes with this login."""

        async def has_come() -> bool:
            await act()
            return any(found == login for found, _ in self.came)

        await until(has_come)


@contextlib.contextmanager
def mail_server() -> Iterator[Mails]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            mails.came.append((self.headers["authorization"], json.loads(body)["text"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        mails = Mails(f"http://127.0.0.1:{server.server_port}/send")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield mails
        finally:
            server.shutdown()


@contextlib.contextmanager
def notify_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        yield manager


async def received(manager: socket.socket) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await asyncio.get_running_loop().sock_recv(manager, 100)


# --- for a cluster


async def test_the_objects_for_a_cluster_have_the_code(tmp_path: Path, environment: dict[str, str]) -> None:
    place = Place(tmp_path)
    place.write_shop("https://mail.example/send")
    async with terminals(tmp_path / "h", environment) as they:
        they.folder = place.path("/srv/shop")
        for block in blocks_in(["On a cluster"]):
            if block.language == "console":
                await they.type(block)
            elif block.file is None:
                await they.shows(block)
                rendered = list(yaml.safe_load_all(they.last_output))
    functions = {found["metadata"]["name"]: found["spec"] for found in rendered if found["kind"] == "Function"}
    assert functions["orders"]["source"]["files"].keys() == {"orders.py", "store.py", "shared/prices.py"}
    assert functions["orders"]["dependencies"].endswith("pydantic>=2,<3\n")
    assert sorted(found["metadata"]["name"] for found in rendered if found["kind"] == "Secret") == ["callers", "mail"]


# --- the whole page


def test_every_block_is_run_or_has_a_reason() -> None:
    tested = {*ON_THIS_MACHINE, "Example", "A server without a cluster", "A container", "On a cluster", "Upgrade"}
    assert {block.section for block in BLOCKS} == tested
    first = {commands_of(block.text)[0] for block in BLOCKS if block.language == "console"}
    assert NOT_RUN.keys() <= first
    for command, (reason, test) in NOT_RUN.items():
        print(f"not run: {command}\n    {reason}: {test}")
        path, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test


def blocks_in(sections: list[str]) -> Iterator[Block]:
    """Those to do something with, in the page's order."""
    for block in BLOCKS:
        if block.section in sections and commands_of(block.text)[0] not in NOT_RUN:
            yield block


def block_of(file: str) -> Block:
    return next(block for block in BLOCKS if block.file == file)


def command_of(beginning: str) -> str:
    lines = (line for block in BLOCKS if block.language == "console" for line in commands_of(block.text))
    return next(line for line in lines if line.startswith(beginning))


@contextlib.asynccontextmanager
async def terminals(home: Path, environment: Mapping[str, str]) -> AsyncIterator[Terminals]:
    """The checkout is where the page has it."""
    async with Terminals(home, environment) as they:
        (home / "kubeirq").symlink_to(ROOT)
        yield they
