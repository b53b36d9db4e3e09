"""The supervisor: owns the listening socket, starts a worker, and replaces it when it ends.

It stays small, because its memory is paid for twice: it imports neither asyncio nor anything that only a worker needs.
"""

import os
import select
import signal
import socket
import sys
import time

from .crash import CrashReport, crash_place
from .heartbeat import NOT_STARTED, REPLACE_ME, Heartbeat
from .log import say
from .memory_kills import MemoryKills
from .settings import BACKLOG, Settings
from .silence import Silence

HUNG = ", as it hung"
STARTS_TRIED = 5  # of a function that has served before
TIME_OUT = "time-out"  # how a worker ended in which a call did not end in its time
STEADY_SECONDS = 1.0  # the supervisor pauses before it replaces a worker that crashes sooner than this
WORKER_STOP_SECONDS = 5.0  # beyond the grace, before SIGKILL
HANG_SECONDS = 3.0  # beyond the time-out: a C call that keeps the interpreter's lock stops even the watchdog
STOPPING = {signal.SIGTERM, signal.SIGINT}
WATCHED = {signal.SIGCHLD, *STOPPING}


def main():
    """Runs the function until SIGTERM; the exit code."""
    try:
        ends = _pipe_of_ends()
        settings = Settings(os.environ)
        listening = _listen(settings)
    except (ValueError, OSError) as error:
        say(str(error))
        return NOT_STARTED
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    has_served = False
    failures = 0
    memory_kills = MemoryKills()
    last_end = None  # of the last worker: when, in seconds of the monotonic clock, and how
    while True:
        started = time.monotonic()
        crash = CrashReport()
        pid, heartbeat, lifeline = _start_worker(settings, listening, ends, crash, last_end)
        status, stop_asked, hung = _watch(pid, heartbeat, settings, listening)
        os.close(lifeline)
        place = _tell_crash(crash.take(), settings)
        _, served = heartbeat.last()
        heartbeat.close()
        if stop_asked:
            return 0 if status in (0, -signal.SIGTERM) else 1
        has_served = has_served or served
        steady = served and (status == REPLACE_ME or time.monotonic() - started > STEADY_SECONDS)
        failures = 0 if steady else failures + 1
        if not served and (not has_served or failures >= STARTS_TRIED):
            say(f"the function does not start ({_exit_text(status)})")
            return NOT_STARTED
        how = TIME_OUT if status == REPLACE_ME else _exit_text(status, memory_kills.since_last()) + HUNG * hung + place
        if status != REPLACE_ME:
            say(f"worker ended with {how}: starting another")
        _tell(ends, how)
        last_end = (time.monotonic(), how)
        pause = min(1.0 if served else 5.0, 0.1 * 2**failures) if failures > 1 else 0.0
        if signal.sigtimedwait(STOPPING, pause):
            return 0


def _listen(settings):
    listening = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise OSError(f"FUNC_HOST, FUNC_PORT: {settings.host}:{settings.port}: {error.strerror}") from error
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


def _pipe_of_ends():
    """The pipe that takes a line for each worker that ended. None if this process got none."""
    number = os.environ.pop("KUBEIRQ_ENDS_FD", None)
    if number is None:
        return None
    os.set_inheritable(int(number), False)  # a program that the function starts must not keep it open
    os.set_blocking(int(number), False)
    return int(number)


def _tell(ends, text):
    if ends is not None:
        try:  # noqa: SIM105 (contextlib would be one more import)
            os.write(ends, f"{text}\n".encode())
        except OSError:
            pass  # nobody reads it any more


def _tell_crash(report, settings):
    """Copies the report to the log; returns the place of the crash in brackets, or nothing."""
    sys.stderr.write(report)
    sys.stderr.flush()
    place = crash_place(report, settings.code_path) if settings.tells_failures else ""
    return f" ({place})" if place else ""


def _start_worker(settings, listening, ends, crash, last_end):
    """Forks; returns the worker's pid, its heartbeat, and its lifeline: the worker dies when this pipe is closed."""
    heartbeat = Heartbeat()
    reader, lifeline = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        return pid, heartbeat, lifeline
    os.close(lifeline)
    if ends is not None:
        os.close(ends)
    status = NOT_STARTED
    try:
        _die_with(reader)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both: the supervisor passes on SIGTERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        from .worker_process import run  # in the worker's process only

        status = run(settings, listening, heartbeat, crash.file, last_end)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_with(reader):
    """Has the kernel kill this process when the pipe's other end is closed, no matter what its threads are doing."""
    import fcntl

    set_signal = 10  # F_SETSIG, which Python has no name for
    fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reader, set_signal, signal.SIGKILL)
    fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([reader], [], [], 0)[0]:
        os._exit(1)  # the other end was closed before this


def _watch(pid, heartbeat, settings, listening):
    """Waits for the worker's end; returns its exit status, whether a signal asked for the end, and whether it hung."""
    stop_asked = hung = False
    deadline = None
    silence = Silence(pid, heartbeat, time.monotonic())
    while True:
        found = signal.sigtimedwait(WATCHED, 0.5)
        if found is not None and found.si_signo != signal.SIGCHLD and not stop_asked:
            stop_asked = True
            deadline = time.monotonic() + settings.grace_seconds + WORKER_STOP_SECONDS
            listening.close()
            os.kill(pid, signal.SIGTERM)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), stop_asked, hung
        now = time.monotonic()
        silent = silence.seconds(now)
        if heartbeat.last()[1] and silent > settings.timeout_seconds + HANG_SECONDS:
            if not hung:
                say("the worker hangs in a call that no thread can interrupt: killed")
            os.kill(pid, signal.SIGKILL if hung else signal.SIGABRT)  # at SIGABRT, it writes where it is
            hung = True
        if deadline is not None and now > deadline:
            say("the worker did not stop within its grace: killed")
            os.kill(pid, signal.SIGKILL)


def _exit_text(status, out_of_memory=""):
    text = f"exit code {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
    return f"{text}, {out_of_memory}" if out_of_memory and status == -signal.SIGKILL else text
