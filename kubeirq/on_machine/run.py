"""`kubeirq dev` and `kubeirq serve`: the fabric on one machine, from start to drained."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from kubeirq.on_machine.admin import admin_api
from kubeirq.on_machine.children import free_port
from kubeirq.on_machine.desired_state import Problems, wanted_from
from kubeirq.on_machine.fabric import Fabric, Wanted
from kubeirq.on_machine.log_files import MOST_BYTES, trigger_log
from kubeirq.on_machine.publish_hints import hints
from kubeirq.output.display import Display, printable
from kubeirq.output.lifecycle_logs import NoticeHandler
from trigger_sources.observe.endpoint import metrics_endpoint
from trigger_sources.observe.logs import JsonLines
from trigger_sources.source import SourceError

log = logging.getLogger(__name__)

DEFAULT_STATE = Path(".kubeirq")
DEFAULT_GRACE_SECONDS = 30.0
_DEBUG_PORT = 5678
_WATCH_STEP_MILLISECONDS = 100
_WATCH_DEBOUNCE_MILLISECONDS = 400


class InUse(Exception):
    """Another fabric runs on this state folder. The text names its process."""


async def dev(
    paths: Sequence[Path],
    *,
    state: Path = DEFAULT_STATE,
    http_port: int | None = None,
    secrets: Path | None = None,
    debug: str | None = None,
    grace_seconds: float = DEFAULT_GRACE_SECONDS,
    write: Callable[[str], None] = lambda line: print(line, flush=True),
) -> int:
    """Runs the resources of these files and folders, reloads them on change, shows each event. The exit code."""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    display = Display(write, colours=colours)
    try:
        wanted = wanted_from(paths, secrets)
        with locked(state), _logging_to(state, NoticeHandler(display.notice)):
            port = http_port if http_port is not None else free_port([8080])
            debugged = {} if debug is None else {debug: free_port([_DEBUG_PORT])}
            async with _running(
                Fabric(
                    state,
                    http_port=port,
                    observe=display.event,
                    show_line=display.log_line,
                    notice=display.notice,
                    debug=debugged,
                ),
                wanted,
            ) as fabric:
                for line in (*hints(fabric), *(f"  debug {name}: 127.0.0.1:{port}" for name, port in debugged.items())):
                    write(line)
                async with _beside(
                    _ticking(display), _reloading(fabric, paths, secrets, state, display.notice, grace_seconds)
                ):
                    await _until_told_to_stop(fabric, grace_seconds, display.notice)
    except Problems as problems:
        for line in problems.lines:
            print(printable(line), file=sys.stderr)
        return 1
    except (InUse, SourceError, OSError) as error:
        print(f"kubeirq dev: {error}", file=sys.stderr)
        return 1
    return 0


async def serve(
    paths: Sequence[Path],
    *,
    state: Path = DEFAULT_STATE,
    http_host: str = "127.0.0.1",
    http_port: int = 8080,
    metrics_host: str = "127.0.0.1",
    metrics_port: int = 9090,
    secrets: Path | None = None,
    grace_seconds: float = DEFAULT_GRACE_SECONDS,
) -> int:
    """The same for a server: no reload but on SIGHUP, one JSON line per lifecycle change. The exit code."""
    logging_to_stdout = logging.StreamHandler(sys.stdout)
    logging_to_stdout.setFormatter(JsonLines())
    function_log = logging.getLogger("kubeirq.function")
    try:
        wanted = wanted_from(paths, secrets)
        with locked(state), _logging_to(state, logging_to_stdout):
            fabric = Fabric(
                state,
                http_host=http_host,
                http_port=http_port,
                show_line=lambda line: function_log.info(
                    "function printed", extra={"function": line.function, "line": line.text}
                ),
                notice=lambda text: log.info("notice", extra={"text": text}),
            )
            metrics = metrics_endpoint(
                metrics_host,
                metrics_port,
                readings=lambda: [running.flow.reading() for running in fabric.flows.values()],
                waiting=fabric.not_ready,
            )
            async with _running(fabric, wanted), metrics as address:
                log.info(
                    "fabric is running",
                    extra={"http": fabric.http_address, "metrics": address, "state": str(state)},
                )
                reload = asyncio.Event()
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
                _notify("READY=1")
                async with _beside(_reloading_when(reload, fabric, paths, secrets, grace_seconds)):
                    await _until_told_to_stop(
                        fabric, grace_seconds, lambda text: log.info("fabric stops", extra={"waits": text})
                    )
            log.info("fabric has stopped")
    except Problems as problems:
        for line in problems.lines:
            print(printable(line), file=sys.stderr)
        return 1
    except (InUse, SourceError, OSError) as error:
        print(f"kubeirq serve: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """At most one fabric on a state folder. Raises InUse. A killed process holds nothing."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise InUse(
                f"{state}: another fabric runs on this folder (pid {pid}); "
                "stop it, or give this one a --state of its own"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@asynccontextmanager
async def _running(fabric: Fabric, wanted: Wanted) -> AsyncIterator[Fabric]:
    """Whoever reaches the admin API finds everything started."""
    async with fabric:
        await fabric.apply(wanted)
        async with admin_api(fabric, fabric.state / "admin.sock"):
            yield fabric


@asynccontextmanager
async def _beside(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs these while the context is open."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ticking(display: Display) -> None:
    while True:
        await asyncio.sleep(1)
        display.tick()


async def _until_told_to_stop(fabric: Fabric, grace_seconds: float, say: Callable[[str], None]) -> None:
    """Waits for SIGINT or SIGTERM, then drains; a second one ends the draining."""
    loop = asyncio.get_running_loop()
    told, again = asyncio.Event(), asyncio.Event()

    def tell() -> None:
        (again if told.is_set() else told).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    await told.wait()
    _notify("STOPPING=1")
    say(_stopping_text(fabric.held, grace_seconds))
    draining = asyncio.create_task(fabric.stop(grace_seconds))
    hurry = asyncio.create_task(again.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        fabric.hurry()
    await draining
    hurry.cancel()


def _stopping_text(held: int, grace_seconds: float) -> str:
    if held == 0:
        return "stopping: nothing is under way"
    events = "1 event is" if held == 1 else f"{held} events are"
    return f"stopping: {events} under way; {grace_seconds:g} s, then the rest goes back (once more to hurry)"


async def _reloading(
    fabric: Fabric,
    paths: Sequence[Path],
    secrets: Path | None,
    state: Path,
    say: Callable[[str], None],
    grace_seconds: float,
) -> None:
    from watchfiles import DefaultFilter, awatch  # `serve` has no need of it

    folders = {path if path.is_dir() else path.absolute().parent for path in paths}
    if secrets is not None:
        folders.add(secrets)
    own = str(state.absolute())  # noqa: ASYNC240  asks nothing of a disk
    watched = DefaultFilter(ignore_paths=[own], ignore_dirs=(*DefaultFilter.ignore_dirs, ".kubeirq"))
    async for changes in awatch(
        *folders, watch_filter=watched, step=_WATCH_STEP_MILLISECONDS, debounce=_WATCH_DEBOUNCE_MILLISECONDS
    ):
        changed = {Path(path) for _, path in changes if concerns(Path(path), fabric.wanted, paths, secrets)}
        if not changed:
            continue  # a log, a ledger, what a function writes
        say(f"changed: {', '.join(sorted(path.name for path in changed)[:5])}")
        await _reload(fabric, paths, secrets, say, grace_seconds)


def concerns(changed: Path, wanted: Wanted, paths: Sequence[Path], secrets: Path | None) -> bool:
    """Whether this file may change what runs: manifests, secrets, and what functions name as theirs."""
    if changed.suffix in (".yaml", ".yml", ".json") or changed in {path.absolute() for path in paths}:
        return True
    named = [] if secrets is None else [secrets.absolute()]
    for function in wanted.functions:
        source = function.spec.source
        paths_of_it = (source.path, *source.include, function.spec.dependencies_path)
        base = function.base.absolute()
        named += [Path(os.path.normpath(base / path)) for path in paths_of_it if path is not None]
    return any(changed == path or path in changed.parents for path in named)


async def _reloading_when(
    asked: asyncio.Event, fabric: Fabric, paths: Sequence[Path], secrets: Path | None, grace_seconds: float
) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await _reload(fabric, paths, secrets, lambda text: log.warning(text), grace_seconds)


async def _reload(
    fabric: Fabric, paths: Sequence[Path], secrets: Path | None, say: Callable[[str], None], grace_seconds: float
) -> None:
    """What is wrong is said, and what ran before goes on."""
    try:
        await fabric.apply(wanted_from(paths, secrets), grace_seconds)
    except Problems as problems:
        say("not reloaded, what ran before goes on:")
        for line in problems.lines:
            say("  " + line)
    except Exception:
        log.exception("not reloaded")


@contextmanager
def _logging_to(state: Path, other: logging.Handler) -> Iterator[None]:
    """Everything to a file that is bounded, but for what functions print: they have their own. And to the other."""
    file = trigger_log(state)
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(file, maxBytes=MOST_BYTES, backupCount=1)
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: record.name != "kubeirq.function")
    with _logging(handler, other):
        yield


@contextmanager
def _logging(*handlers: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)  # it tells of every heartbeat
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _notify(message: str) -> None:
    """Tells systemd, where it asked (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
