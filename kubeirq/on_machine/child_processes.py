"""Starts and stops child processes. On Linux, none of them outlives this process."""

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


async def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    output: int | IO[bytes] = asyncio.subprocess.DEVNULL,
    umask: int = -1,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Starts the command in its own process group. On Linux, the kernel kills it when this process ends."""
    return await asyncio.create_subprocess_exec(
        *command,
        env=dict(environment),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal reaches only the fabric, which stops its children in order
        pass_fds=tuple(pass_fds),
        preexec_fn=partial(_prepare, umask),  # uvloop has no argument `umask`
    )


async def stop_child(process: asyncio.subprocess.Process, grace_seconds: float) -> None:
    """Sends SIGTERM, and after the grace period SIGKILL to the process and its children. Returns when it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await process.wait()
    kill_group(process)
    await process.wait()


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Sends SIGKILL to all processes in its group, including children that it left behind when it ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port(wanted: Sequence[int] = ()) -> int:
    """The first of the wanted loopback ports that is free, else any free port."""
    for port in (*wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no loopback port is free; end processes that hold ports")


def check_free(host: str, port: int, option: str) -> None:
    """Raises OSError, which names the option, if nobody can listen there. Port 0 is always free."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(f"{option}: another process listens on {host}:{port}; end it, or set {option}") from error
            raise OSError(f"{option}: {host}:{port}: {error.strerror}") from error


def exit_text(code: int) -> str:
    """The exit status of a process in words."""
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _prepare(umask: int) -> None:
    """Runs in the child before the command. A umask of -1 stays as it is."""
    if umask >= 0:
        os.umask(umask)
    if _libc is not None:
        _end_with_parent()


def _end_with_parent() -> None:
    """Runs in the child between fork and exec, where code may hardly allocate memory or take locks."""
    assert _libc is not None
    _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
