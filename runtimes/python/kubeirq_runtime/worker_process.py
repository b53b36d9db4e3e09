"""The process of a worker, from its fork to its exit code."""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from functools import partial

from .heartbeat import NOT_STARTED
from .log import say_traceback

FLUSH_SECONDS = 1.0  # for answers on their way, before a process is replaced
THREAD_STACK_BYTES = 2**20  # stacks count against the memory limit, and Linux gives each thread 8 MiB


def run(settings, listening, heartbeat, crash_file, last_end):
    """Serves until SIGTERM, or until the process has to be replaced; returns the exit code."""
    faulthandler.enable(crash_file)  # a crash in C code leaves the lines of Python that led there
    # A process that the handler starts may crash, too: its lines go to the log, and say nothing of this worker's end
    os.register_at_fork(after_in_child=partial(faulthandler.enable, 2))
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # not asyncio.run, which at its end waits for tasks that refuse to be cancelled
    return loop.run_until_complete(_serve(settings, listening, heartbeat, loop, last_end))


async def _serve(settings, listening, heartbeat, loop, last_end):
    sys.stdout.reconfigure(line_buffering=True)  # a line that a handler prints is in the log at once
    sys.path.insert(0, settings.code_path)
    if settings.memory_limit_bytes:
        threading.stack_size(THREAD_STACK_BYTES)
    from .watchdog import Watchdog  # here: httptools may be in the folder of the code
    from .worker import Worker

    worker = Worker(settings, loop, listening, last_end)
    Watchdog(worker, heartbeat, listening).start()
    try:
        if settings.debug_port:
            import debugpy

            debugpy.listen(("127.0.0.1", settings.debug_port))
        worker.handler.load()
        await worker.run_hook(settings.startup)
    except Exception as error:
        say_traceback("", error)
        return NOT_STARTED
    _limit_memory(settings.memory_limit_bytes)
    loop.add_signal_handler(signal.SIGTERM, worker.end, 0)
    await worker.listen()
    heartbeat.beat(time.monotonic())  # the watchdog's thread may not have had its first turn
    heartbeat.ready()  # before any request: its handler may end the process
    worker.is_ready = True
    sweep = loop.create_task(worker.sweep())
    status = await worker.ended
    if status == 0:
        await worker.drain(settings.grace_seconds, is_last=True)
    else:
        await worker.drain(FLUSH_SECONDS, is_last=False)
    sweep.cancel()
    if status == 0:
        await worker.run_hook(settings.shutdown)
    return status


def _limit_memory(limit):
    """Makes allocations beyond the limit fail with MemoryError, before the kernel kills the whole pod."""
    if limit <= 0:
        return
    import resource  # here: a function's own module may have this name

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
