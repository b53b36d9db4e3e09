"""The function's own code: its handler and its hooks."""

import asyncio
import importlib
import importlib.util
import inspect
import os
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
        module = self._module(settings.module)
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
        hook = getattr(self._module(module or self._settings.module), function)
        result = hook(context) if inspect.signature(hook).parameters else hook()
        if inspect.isawaitable(result):
            await result

    def _module(self, name):
        """The module of the function's own code, also where the standard library has one of that name.

        Such a file gets a name of its own, so that whoever imports `email` gets the library's module: an HTTP client in
        a function `email` needs it.
        """
        file = os.path.join(self._settings.code_path, f"{name}.py")
        if name not in sys.stdlib_module_names or not os.path.isfile(file):
            return importlib.import_module(name)
        own_name = f"function_{name}"
        if own_name not in sys.modules:
            _import_from_library(name, self._settings.code_path)
            spec = importlib.util.spec_from_file_location(own_name, file)
            module = sys.modules[own_name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[own_name]


def _import_from_library(name, code_path):
    """Imports the standard library's module before anything can take the function's file for it."""
    if name in sys.modules:
        return
    before = sys.path[:]
    sys.path[:] = [path for path in before if os.path.abspath(path) != os.path.abspath(code_path)]
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # not on this system, such as a module of Windows
    finally:
        sys.path[:] = before


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
