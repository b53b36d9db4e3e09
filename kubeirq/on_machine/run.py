"""`kubeirq dev` and `kubeirq serve`: run the fabric on one machine from start to stop."""

import asyncio
import errno
import importlib.util
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from kubeirq.manifests.resources import InvalidManifests
from kubeirq.on_machine.admin import admin_api
from kubeirq.on_machine.child_processes import check_free, free_port
from kubeirq.on_machine.desired_state import DesiredState, load_desired_state, starting_notes
from kubeirq.on_machine.fabric import Fabric
from kubeirq.on_machine.fabric_logging import FUNCTION_LOGGER, logging_to
from kubeirq.on_machine.reload import Reloader
from kubeirq.on_machine.shutdown import notify_systemd, run_until_signal
from kubeirq.on_machine.startup_text import DEFAULT_STATE, startup_lines
from kubeirq.on_machine.state_lock import InUse, locked
from kubeirq.on_machine.states import states_of
from kubeirq.output.event_display import EventDisplay, printable
from kubeirq.output.failure_log import FailureLog
from kubeirq.output.state_changes import StateChanges
from kubeirq.output.terminal_warnings import TerminalWarnings
from trigger_sources.dispatch.held import Seen
from trigger_sources.observe.budgets import budget_metrics
from trigger_sources.observe.endpoint import metrics_endpoint
from trigger_sources.observe.logs import JsonLines
from trigger_sources.problems import nearest
from trigger_sources.source import SourceError

log = logging.getLogger(__name__)

DEFAULT_GRACE_SECONDS = 30.0
_HTTP_PORT = 8080
_DEBUG_PORT = 5678
_LOOK_SECONDS = 0.25  # between two looks at the states of functions and triggers
_LOOKS_PER_TICK = 4


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
    """Runs the manifests, reloads them when they change, and shows each event. Returns the exit code."""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    fabric: Fabric
    display = EventDisplay(write, colours=colours, attempts_of=lambda seen: fabric.most_attempts(seen))
    try:
        desired = load_desired_state(paths, secrets)
        if debug is not None and (problem := _debug_problem(debug, desired)) is not None:
            print(f"kubeirq dev: --debug: {problem}", file=sys.stderr)
            return 1
        with (
            locked(state),
            logging_to(state, TerminalWarnings(display.notice)),
            closing(FailureLog()) as failures,
        ):
            check_free("127.0.0.1", http_port or 0, "--http-port")
            debug_ports = {} if debug is None else {debug: free_port([_DEBUG_PORT])}

            def observe(seen: Seen) -> None:
                display.event(seen)
                failures(seen)

            fabric = Fabric(
                state,
                http_port=http_port if http_port is not None else free_port([_HTTP_PORT]),
                observe=observe,
                show_line=display.log_line,
                notice=display.notice,
                debug=debug_ports,
            )
            async with _running(fabric, desired):
                debug_lines = (f"  debug {name}: 127.0.0.1:{port}" for name, port in debug_ports.items())
                for line in (*startup_lines(fabric), *debug_lines):
                    write(line)
                for note in starting_notes(paths, secrets):
                    display.notice(note)
                changes = StateChanges(display.notice)
                reloader = Reloader(fabric, paths, secrets, grace_seconds, display.notice)
                async with _in_background(_tick(display, changes, fabric), reloader.on_change()):
                    await run_until_signal(fabric, grace_seconds, display.notice)
    except (InvalidManifests, InUse, SourceError, OSError) as error:
        return _print_problem("dev", state, error)
    return 0


async def serve(
    paths: Sequence[Path],
    *,
    state: Path = DEFAULT_STATE,
    http_host: str = "127.0.0.1",
    http_port: int = _HTTP_PORT,
    metrics_host: str = "127.0.0.1",
    metrics_port: int = 9090,
    secrets: Path | None = None,
    grace_seconds: float = DEFAULT_GRACE_SECONDS,
) -> int:
    """Runs the manifests on a server, reloads them on SIGHUP, and logs JSON lines. Returns the exit code."""
    logging_to_stdout = logging.StreamHandler(sys.stdout)
    logging_to_stdout.setFormatter(JsonLines())
    function_log = logging.getLogger(FUNCTION_LOGGER)
    try:
        desired = load_desired_state(paths, secrets)
        with locked(state), logging_to(state, logging_to_stdout), closing(FailureLog()) as failures:
            check_free(http_host, http_port, "--http-port")
            check_free(metrics_host, metrics_port, "--metrics-port")
            fabric = Fabric(
                state,
                http_host=http_host,
                http_port=http_port,
                observe=failures,
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
                metrics=lambda: budget_metrics(fabric.host.memory, fabric.gateway.memory),
            )
            async with _running(fabric, desired), metrics as address:
                log.info(
                    "fabric is running",
                    extra={
                        "http": fabric.http_address,
                        "metrics": address,
                        **{kind: broker.address for kind, broker in sorted(fabric.brokers.items())},
                        "state": str(state),
                    },
                )
                hangup = asyncio.Event()
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
                notify_systemd("READY=1")
                reloader = Reloader(fabric, paths, secrets, grace_seconds, lambda text: log.warning(text))
                async with _in_background(reloader.on_request(hangup)):
                    await run_until_signal(
                        fabric, grace_seconds, lambda text: log.info("fabric stops", extra={"waits": text})
                    )
            log.info("fabric has stopped")
    except (InvalidManifests, InUse, SourceError, OSError) as error:
        return _print_problem("serve", state, error)
    return 0


def _debug_problem(function: str, desired: DesiredState) -> str | None:
    names = [found.name for found in desired.functions]
    if function not in names:
        return f"no Function {function!r} in these files{nearest(function, names)}"
    if importlib.util.find_spec("debugpy") is None:
        return "debugpy is not installed; run `pip install debugpy`"
    return None


def _print_problem(command: str, state: Path, error: Exception) -> int:
    """Prints the problem on standard error, and returns the exit code."""
    if isinstance(error, InvalidManifests):
        for line in error.lines:
            print(printable(line), file=sys.stderr)
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        print(f"kubeirq {command}: {error.filename or state}: the disk is full; free some space", file=sys.stderr)
    else:
        print(f"kubeirq {command}: {error}", file=sys.stderr)
    return 1


@asynccontextmanager
async def _running(fabric: Fabric, desired: DesiredState) -> AsyncIterator[Fabric]:
    """Opens the admin API last, so that its clients find everything started."""
    async with fabric:
        await fabric.apply(desired)
        async with admin_api(fabric, fabric.state / "admin.sock"):
            yield fabric


@asynccontextmanager
async def _in_background(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs the coroutines while the context is open."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tick(display: EventDisplay, changes: StateChanges, fabric: Fabric) -> None:
    for turn in itertools.count():
        changes.look(states_of(fabric), time.monotonic())
        await asyncio.sleep(_LOOK_SECONDS)
        if turn % _LOOKS_PER_TICK == 0:
            display.tick()
