"""The function's own code: its handler and its hooks."""

import asyncio
import importlib
import inspect
import sys

ASYNC_CONCURRENCY = 16  # of an async handler, unless the settings have another


class Handler:
    """The handler, and the way that it runs: inline in the loop's own thread, on threads, or as tasks of the loop."""

    def __init__(self, settings, loop):
        self.function = None
        self.is_async = False
        self.is_inline = False
        self.concurrency = settings.concurrency or 1
        self.threads = None
        self._settings = settings
        self._loop = loop

    def load(self):
        """Imports the handler. Raises ValueError where there is none, and any exception of its module."""
        settings = self._settings
        module = importlib.import_module(settings.module)
        self.function = function = getattr(module, settings.handler, None)
        if not callable(function):
            raise ValueError(f"FUNC_HANDLER: module {settings.module!r} has no function {settings.handler!r}")
        forms = (function, getattr(function, "__call__", None))  # noqa: B004 (an object may have an async __call__)
        self.is_async = any(inspect.iscoroutinefunction(form) or inspect.isasyncgenfunction(form) for form in forms)
        self.concurrency = settings.concurrency or (ASYNC_CONCURRENCY if self.is_async else 1)
        self.is_inline = not self.is_async and self.concurrency == 1
        if not self.is_async and not self.is_inline:
            from concurrent.futures import ThreadPoolExecutor  # here: most functions never need it

            self.threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="handler")

    def in_thread(self, function, *arguments):
        return asyncio.wrap_future(self.threads.submit(_called, function, *arguments), loop=self._loop)

    def task(self, awaitable):
        """From Python 3.12 on, the task runs at once until it first waits."""
        if sys.version_info >= (3, 12):
            return asyncio.Task(_awaited(awaitable), loop=self._loop, eager_start=True)
        return self._loop.create_task(_awaited(awaitable))

    async def run_hook(self, name, context):
        """Runs `module.function`, sync or async, with the context if it takes an argument."""
        if not name:
            return
        module, _, function = name.rpartition(".")
        hook = getattr(importlib.import_module(module or self._settings.module), function)
        result = hook(context) if inspect.signature(hook).parameters else hook()
        if inspect.isawaitable(result):
            await result


def _called(function, *arguments):
    """Calls it in a thread. A future cannot carry StopIteration."""
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


async def _awaited(awaitable):
    """Lets sys.exit in a handler end the call, not the loop."""
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
