"""The Python runtime: one file that serves `handler(event, context)` over HTTP. See docs/runtime-contract.md.

Two processes. The supervisor owns the listening socket and does nothing else, so that no connection is refused while
a worker is replaced. The worker serves; a thread of it watches the calls, and when one is past its time and the event
loop cannot end it, answers 408 in its place and ends the process. Copy this file into any image: it needs httptools,
takes uvloop and orjson where they are, and imports nothing else.
"""

import mmap
import os
import select
import signal
import socket
import struct
import sys
import time

REPLACE_ME = 70  # a worker's exit code: a call would not end
NOT_STARTED = 3  # its code or its startup hook failed
STARTS_TRIED = 5  # of a function that has served before
STEADY_SECONDS = 1.0  # a worker that crashes sooner than this is started again with a pause
WORKER_STOP_SECONDS = 5.0  # beyond the grace, before SIGKILL
HANG_SECONDS = 3.0  # beyond the time-out: a C call that keeps the interpreter's lock stops even the watching thread
BACKLOG = 1024
STOPPING = {signal.SIGTERM, signal.SIGINT}
WATCHED = {signal.SIGCHLD, *STOPPING}


# --- the supervisor: small, and started before anything large is imported, since its memory is paid for twice


def main() -> int:
    try:
        settings = Settings(os.environ)
        listening = _listen(settings)
    except (ValueError, OSError) as error:
        _say(str(error))
        return NOT_STARTED
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    has_served = False
    failures = 0
    while True:
        started = time.monotonic()
        pid, beat, alive = _start_worker(settings, listening)
        status, asked = _watch(pid, beat, settings, listening)
        os.close(alive)
        _, served = _BEAT.unpack_from(beat)
        beat.close()
        if asked:
            return 0 if status in (0, -signal.SIGTERM) else 1
        has_served = has_served or served
        steady = served and (status == REPLACE_ME or time.monotonic() - started > STEADY_SECONDS)
        failures = 0 if steady else failures + 1
        if not served and (not has_served or failures >= STARTS_TRIED):
            _say(f"the function does not start ({_exit_text(status)})")
            return NOT_STARTED
        if status != REPLACE_ME:
            _say(f"worker ended with {_exit_text(status)}: starting another")
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


_BEAT = struct.Struct("d?")  # when the watching thread last ran, and whether the function ever was ready


def _start_worker(settings, listening):
    """Forks; returns the worker's pid, its heartbeat, and the pipe that kills it when this end is closed."""
    beat = mmap.mmap(-1, mmap.PAGESIZE)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        return pid, beat, writer
    os.close(writer)
    status = NOT_STARTED
    try:
        _end_with(reader)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both: the supervisor passes on SIGTERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        status = _worker_main(settings, listening, beat)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_with(reader):
    """The kernel kills this process as soon as the other end is closed, whatever its threads are doing."""
    import fcntl

    set_signal = 10  # F_SETSIG, which Python has no name for
    fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reader, set_signal, signal.SIGKILL)
    fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([reader], [], [], 0)[0]:
        os._exit(1)  # it was closed before this


def _watch(pid, beat, settings, listening):
    """Waits for the worker's end; (exit status, whether it was asked for)."""
    asked = False
    deadline = None
    while True:
        found = signal.sigtimedwait(WATCHED, 0.5)
        if found is not None and found.si_signo != signal.SIGCHLD and not asked:
            asked = True
            deadline = time.monotonic() + settings.grace_seconds + WORKER_STOP_SECONDS
            listening.close()
            os.kill(pid, signal.SIGTERM)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), asked
        now = time.monotonic()
        last, ready = _BEAT.unpack_from(beat)
        if ready and now - last > settings.timeout_seconds + HANG_SECONDS:
            _say("the worker hangs in a call that no thread can interrupt: killed")
            os.kill(pid, signal.SIGKILL)
        if deadline is not None and now > deadline:
            _say("the worker did not stop within its grace: killed")
            os.kill(pid, signal.SIGKILL)


def _exit_text(status):
    return f"exit code {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _say(text):
    sys.stderr.write(f"runtime: {text}\n")
    sys.stderr.flush()


class Settings:
    """The contract's variables. Raises ValueError that names the variable."""

    def __init__(self, environment):
        get = environment.get

        def number(name, default, least=0.0):
            text = get(name) or str(default)
            try:
                found = float(text)
            except ValueError:
                found = float("nan")
            if not least <= found < 1e10:
                raise ValueError(f"{name}: {text!r}: a number from {least:g} is needed")
            return found

        handler = get("FUNC_HANDLER") or "handler"
        module = get("MOD_NAME")
        if not module:
            module, _, handler = handler.rpartition(".")
        if not module:
            raise ValueError("MOD_NAME: the module of the handler is needed, or FUNC_HANDLER as module.function")
        self.module = module
        self.handler = handler.rpartition(".")[2]
        self.host = get("FUNC_HOST") or "0.0.0.0"
        self.port = int(number("FUNC_PORT", 8080))
        self.code_path = get("KUBEIRQ_CODE_PATH") or os.getcwd()
        self.function_name = get("FUNC_NAME") or module
        self.timeout_seconds = number("FUNC_TIMEOUT", 180, 0.001)
        self.runtime = get("FUNC_RUNTIME") or f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.memory_limit = get("FUNC_MEMORY_LIMIT") or "0"
        try:
            self.memory_limit_bytes = bytes_of(self.memory_limit)
        except ValueError:
            raise ValueError(f"FUNC_MEMORY_LIMIT: {self.memory_limit!r}: bytes or 128Mi is needed") from None
        self.concurrency = int(number("FUNC_CONCURRENCY", 0))
        self.startup = get("FUNC_STARTUP") or ""
        self.shutdown = get("FUNC_SHUTDOWN") or ""
        self.body_limit_bytes = int(number("FUNC_BODY_LIMIT", 8 * 1024 * 1024))
        self.client_seconds = number("FUNC_CLIENT_TIMEOUT", 30, 0.1)
        self.grace_seconds = number("FUNC_GRACE", 30)
        self.kubeless = get("KUBEIRQ_KUBELESS") == "1"
        self.debug_port = int(number("KUBEIRQ_DEBUG_PORT", 0))
        if self.debug_port:
            self.timeout_seconds = 1e9  # whoever looks at a breakpoint has time


def bytes_of(quantity):
    """Bytes of a Kubernetes quantity: 128Mi, 1G, 1000. Raises ValueError."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    for unit, factor in units.items():
        if quantity.endswith(unit):
            return int(float(quantity[: -len(unit)]) * factor)
    return int(float(quantity))


# --- the worker


def _worker_main(settings, listening, beat):
    """Serves until SIGTERM; the exit status."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # not asyncio.run: at its end that waits for tasks which refuse to be cancelled
    return loop.run_until_complete(_serve(settings, listening, beat, loop))


async def _serve(settings, listening, beat, loop):
    sys.stdout.reconfigure(line_buffering=True)  # what a handler prints is in the log when it has printed it
    sys.path.insert(0, settings.code_path)
    if settings.memory_limit_bytes:
        import threading

        threading.stack_size(2**20)  # the stacks of threads count, 8 MiB each where nothing is said
    worker = Worker(settings, loop, listening)
    Watch(worker, beat, listening).start()
    try:
        if settings.debug_port:
            import debugpy

            debugpy.listen(("127.0.0.1", settings.debug_port))
        worker.load()
        await worker.run_hook(settings.startup)
    except Exception as error:
        _say_traceback("", error)
        return NOT_STARTED
    _limit_memory(settings.memory_limit_bytes)
    loop.add_signal_handler(signal.SIGTERM, worker.end, 0)
    await worker.listen()
    worker.ready = True
    sweep = loop.create_task(worker.sweep())
    status = await worker.ended
    await worker.drain(settings.grace_seconds if status == 0 else FLUSH_SECONDS)
    sweep.cancel()
    if status == 0:
        await worker.run_hook(settings.shutdown)
    return status


def _say_traceback(head, error):
    """The function's own frames: what called it is the same every time."""
    import traceback

    frames = error.__traceback__
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file != __file__ and "importlib" not in file:
            break
        frames = frames.tb_next
    sys.stderr.write(head + "".join(traceback.format_exception(type(error), error, frames)))
    sys.stderr.flush()


def _limit_memory(limit):
    """Makes allocations beyond it fail with MemoryError, before the kernel kills the whole pod for them."""
    if limit <= 0:
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


# --- calls: from a request to the handler and back


class Headers(dict):
    """Headers by lower-case name, found by any."""

    def __getitem__(self, name):
        return dict.__getitem__(self, name.lower())

    def __contains__(self, name):
        return dict.__contains__(self, name.lower())

    def get(self, name, default=None):
        return dict.get(self, name.lower(), default)


class Request:
    """The request as it came, for handlers that ask: `event['extensions']['request']`. Its parts are keys, too."""

    __slots__ = ("_headers", "body", "method", "target")

    def __init__(self, method, target, headers, body):
        self.method = method
        self.target = target
        self._headers = headers  # lower-case names
        self.body = body

    @property
    def headers(self):
        return Headers(self._headers)

    @property
    def path(self):
        return self.target.partition("?")[0]

    @property
    def query(self):
        """Values by name; the last one counts."""
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def path_params(self):
        """What the trigger's path had in braces."""
        text = self._headers.get("kubeirq-path-params")
        return loads(text) if text else {}

    @property
    def json(self):
        """The body parsed, whatever its content type says."""
        return loads(self.body)

    def __getitem__(self, name):
        if name in ("method", "path", "path_params", "query", "headers", "body", "json"):
            return getattr(self, name)
        raise KeyError(name)


class Event(dict):
    """Kubeless' event, and under `cloudevent` the attributes and raw bytes of the CloudEvent, parsed when asked for."""

    __slots__ = ("_attributes", "_request")

    def __missing__(self, name):
        if name != "cloudevent":
            raise KeyError(name)
        request = self._request
        attributes = self._attributes
        if attributes is None:
            attributes = _binary_attributes(request._headers)
        found = self["cloudevent"] = {"attributes": attributes, "data": request.body}
        return found

    def get(self, name, default=None):
        return self[name] if name == "cloudevent" else dict.get(self, name, default)

    def __contains__(self, name):
        return name == "cloudevent" or dict.__contains__(self, name)


def event_from(request, kubeless=False):
    """The event that a request carries: CloudEvents binary or structured, Kubeless' headers, or a plain request.

    Raises BadRequest for what claims to be JSON or a CloudEvent and is none.
    """
    headers = request._headers
    get = headers.get
    content_type = get("content-type", "")
    event = Event()
    event._request = request
    event._attributes = None
    if content_type != "application/json" and content_type.lower().startswith("application/cloudevents+json"):
        event["data"], event._attributes = _structured(request.body)
        get = event._attributes.get
        prefix = ""
    else:
        event["data"] = _data(request.body, content_type, kubeless)
        prefix = "ce-" if "ce-id" in headers else "event-"
    if prefix == "event-":
        event["event-id"] = get("event-id")
        event["event-type"] = get("event-type")
        event["event-time"] = get("event-time")
        event["event-namespace"] = get("event-namespace")
    else:
        event["event-id"] = _unescaped(get(prefix + "id"))
        event["event-type"] = _unescaped(get(prefix + "type"))
        event["event-time"] = get(prefix + "time")
        event["event-namespace"] = _unescaped(get(prefix + "source"))
    event["extensions"] = {"request": request}
    return event


def _structured(body):
    """Data and attributes of a CloudEvent that is JSON as a whole."""
    envelope = _json(body)
    if not isinstance(envelope, dict):
        raise BadRequest("the CloudEvent is no JSON object")
    attributes = {name: value for name, value in envelope.items() if name not in ("data", "data_base64")}
    if "data_base64" not in envelope:
        return envelope.get("data"), attributes
    import base64

    try:
        return base64.b64decode(envelope["data_base64"], validate=True), attributes
    except (TypeError, ValueError):
        raise BadRequest("the CloudEvent's data_base64 is no base64") from None


class BadRequest(Exception):
    """The caller's fault."""

    status = 400


def _data(body, content_type, kubeless):
    """JSON parsed, text/* as text, nothing as None, anything else as bytes. Kubeless' functions know bytes only."""
    if not body:
        return b"" if kubeless else None
    if content_type == "application/json":
        return _json(body)
    media = content_type.partition(";")[0].strip().lower()
    if media in ("application/json", "text/json") or media.endswith("+json"):
        return _json(body)
    if media.startswith("text/") and not kubeless:
        return body.decode(errors="replace")
    return body


def _json(body):
    try:
        return loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None


def _binary_attributes(headers):
    found = {name[3:]: _unescaped(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        found["datacontenttype"] = headers["content-type"]
    return found


def _unescaped(value):
    if not isinstance(value, str) or "%" not in value:
        return value
    from urllib.parse import unquote

    return unquote(value)


def loads(text):
    """Parses JSON with the fastest parser that is there. Raises ValueError."""
    _choose_json()
    return loads(text)


def dumps(value):
    """JSON as bytes. Raises TypeError or ValueError."""
    _choose_json()
    return dumps(value)


def _choose_json():
    """At the first call, so that the supervisor need not hold a parser."""
    global loads, dumps
    import json

    def dumps(value):
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

    loads = json.loads
    try:
        import orjson
    except ImportError:
        return
    slow_loads, slow_dumps = loads, dumps

    # what orjson alone refuses (keys that are numbers, NaN) is the same answer with it as without

    def loads(text):
        try:
            return orjson.loads(text)
        except ValueError:
            return slow_loads(text)

    def dumps(value):
        try:
            return orjson.dumps(value)
        except TypeError:
            return slow_dumps(value)


class BadAnswer(Exception):
    """The handler returned what is no answer."""


JSON_TYPE, TEXT_TYPE, BYTES_TYPE = "application/json", "text/plain; charset=utf-8", "application/octet-stream"


def answer_from(result, kubeless=False):
    """(status, headers as pairs, content type, body or iterator) of what a handler returned. Raises BadAnswer."""
    status, headers = 200, ()
    if isinstance(result, tuple):
        if len(result) not in (2, 3):
            raise BadAnswer(f"a tuple of {len(result)}; (body, status) or (body, status, headers) is an answer")
        result, status, *rest = result
        headers = _pairs(rest[0]) if rest else ()
    elif hasattr(result, "status_code") and hasattr(result, "body"):
        status, headers, result = result.status_code, _pairs(getattr(result, "headers", None) or {}), result.body
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise BadAnswer(f"{status!r} is no status; one from 200 to 599 is")
    if result is None:
        return (200 if kubeless and status == 200 else 204 if status == 200 else status), headers, None, b""
    if isinstance(result, (dict, list)):
        try:
            return int(status), headers, JSON_TYPE, dumps(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadAnswer(f"what is no JSON: {error}") from None
    if isinstance(result, str):
        return int(status), headers, TEXT_TYPE, result.encode(errors="replace")
    if isinstance(result, (bytes, bytearray, memoryview)):
        return int(status), headers, BYTES_TYPE, bytes(result)
    if hasattr(result, "__next__") or hasattr(result, "__anext__"):
        return int(status), headers, TEXT_TYPE, result
    raise BadAnswer(f"a {type(result).__name__} is no answer; bytes, str, dict, list, None, a tuple or a generator is")


def _pairs(headers):
    """Headers as pairs with lower-case names. Raises BadAnswer for what could be taken for more than one header."""
    import re

    pairs = []
    try:
        for name, value in headers.items() if hasattr(headers, "items") else headers:
            name, value = str(name), str(value)
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
                raise BadAnswer(f"{name!r}: a header's name or value with a character that would break the answer")
            pairs.append((name.lower(), value))
    except (TypeError, ValueError):
        raise BadAnswer(f"headers that are a {type(headers).__name__}; a dict or pairs are") from None
    return pairs


class ClientGone(Exception):
    """There is nobody left to answer."""


class Call:
    """One request that is being handled."""

    __slots__ = ("answer_began", "connection", "deadline", "event_id", "future", "inline", "method", "started")

    def __init__(self, connection, method, started, deadline):
        self.connection = connection
        self.method = method
        self.started = started
        self.deadline = deadline
        self.event_id = None
        self.inline = False  # the handler runs in the loop's own thread at this moment
        self.answer_began = False  # a stream's head is sent: no other status can be
        self.future = None  # what ends when the handler does, where it does not run inline


MOST_WAITING = 1000
MOST_BODY_BYTES = 256 * 2**20  # of all requests that came and are not answered
TURN_SECONDS = 0.1
CLEANUP_SECONDS = 1.0  # for a handler that was cancelled
FLUSH_SECONDS = 1.0  # for answers on their way, before a process is replaced
END = object()


class Worker:
    """The handler, the calls under way, and what was counted."""

    def __init__(self, settings, loop, listening):
        from collections import deque

        self.settings = settings
        self.loop = loop
        self.listening = listening
        self.server = None  # while connections are taken
        self.handler = None
        self.is_async = False
        self.inline = False
        self.concurrency = settings.concurrency or 1
        self.threads = None
        self.context = {
            "function-name": settings.function_name,
            "timeout": settings.timeout_seconds,
            "runtime": settings.runtime,
            "memory-limit": settings.memory_limit,
            "state": {},
        }
        self.ready = False
        self.stopping = False
        self.ended = loop.create_future()
        self.connections = set()
        self.body_bytes = 0
        self.calls = {}  # those under way, by id; whoever pops one answers it
        self.waiting = deque()  # requests beyond the concurrency, oldest first
        self.running = 0
        self.stuck = 0  # of those that are running, the ones past their time that did not end when told to
        self.turn = time.monotonic()  # when the loop last turned
        self.metrics = Metrics()
        self.tasks = set()
        self.protocol = _protocol_class()

    def load(self):
        """Imports the handler."""
        import importlib
        import inspect

        settings = self.settings
        module = importlib.import_module(settings.module)
        self.handler = handler = getattr(module, settings.handler, None)
        if not callable(handler):
            raise ValueError(f"FUNC_HANDLER: module {settings.module!r} has no function {settings.handler!r}")
        forms = (handler, getattr(handler, "__call__", None))  # noqa: B004 (an object may have an async __call__)
        self.is_async = any(inspect.iscoroutinefunction(form) or inspect.isasyncgenfunction(form) for form in forms)
        self.concurrency = settings.concurrency or (16 if self.is_async else 1)
        self.inline = not self.is_async and self.concurrency == 1
        if not self.is_async and not self.inline:
            from concurrent.futures import ThreadPoolExecutor

            self.threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="handler")

    def connection(self):
        return self.protocol(self)

    async def listen(self):
        """Takes connections from the socket that the supervisor keeps open."""
        if self.server is None and not self.ended.done():
            self.server = await self.loop.create_server(self.connection, sock=self.listening.dup(), backlog=BACKLOG)

    def leave_to_the_next(self):
        """Takes no more connections: they wait in the kernel for this process to recover, or for the next one."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def adopt(self, client):
        """Serves a connection that the watching thread accepted."""
        self.background(self.loop.connect_accepted_socket(self.connection, client))

    def background(self, awaitable):
        task = self.loop.create_task(awaitable)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run_hook(self, name):
        """Runs `module.function`, sync or async, with the context if it takes an argument."""
        if not name:
            return
        import importlib
        import inspect

        module, _, function = name.rpartition(".")
        hook = getattr(importlib.import_module(module or self.settings.module), function)
        result = hook(dict(self.context)) if inspect.signature(hook).parameters else hook()
        if inspect.isawaitable(result):
            await result

    # --- one call

    def accept(self, connection, request):
        """A whole request came: run it now, or when there is room."""
        if self.running < self.concurrency and not self.waiting:
            self.start(connection, request)
        elif len(self.waiting) >= MOST_WAITING:
            connection.respond(503, (("retry-after", "1"),), TEXT_TYPE, b"too many requests wait\n")
        else:
            self.waiting.append((connection, request))

    def start(self, connection, request):
        now = time.monotonic()
        timeout = self.settings.timeout_seconds
        call = Call(connection, request.method, now, now + timeout)
        self.running += 1
        try:
            event = event_from(request, self.settings.kubeless)
        except Exception as error:
            self.failed(call, error)
            return
        call.event_id = event["event-id"]
        context = self.context.copy()
        attempt = request._headers.get("kubeirq-attempt", "1")
        context["attempt"] = int(attempt) if attempt.isdecimal() and len(attempt) < 10 else 1
        context["deadline"] = time.time() + timeout
        self.calls[id(call)] = call
        if self.inline:
            try:
                result = self.step(call, self.handler, event, context)
            except BaseException as error:
                self.failed(call, error)
            else:
                self.finish(call, result)
        elif self.threads is not None:
            self.settle_later(call, self.in_thread(self.handler, event, context), self.finish)
        else:
            try:
                result = self.handler(event, context)
            except Exception as error:
                self.calls.pop(id(call), None)
                self.failed(call, error)
                return
            if hasattr(result, "__anext__"):
                self.calls.pop(id(call), None)
                self.finish(call, result)
            else:
                self.settle_later(call, self.task(result), self.finish)

    def step(self, call, function, *arguments):
        """Runs the handler's code in this thread, watched by the other one. The call is not in `calls` afterwards."""
        call.inline = True
        try:
            return function(*arguments)
        finally:
            if self.calls.pop(id(call), None) is None:
                time.sleep(60)  # the watching thread has answered in its place, and ends this process
            call.inline = False

    def in_thread(self, function, *arguments):
        import asyncio

        return asyncio.wrap_future(self.threads.submit(_called, function, *arguments), loop=self.loop)

    def task(self, awaitable):
        """Runs it at once until it first waits, where Python can (3.12)."""
        import asyncio

        if sys.version_info >= (3, 12):
            return asyncio.Task(_awaited(awaitable), loop=self.loop, eager_start=True)
        return self.loop.create_task(_awaited(awaitable))

    def settle_later(self, call, future, settle):
        """Waits for a handler no longer than its time: the sweep ends it then."""
        call.future = future

        def done(future):
            error = RuntimeError("the handler was cancelled") if future.cancelled() else future.exception()
            if self.calls.pop(id(call), None) is None:  # answered with 408 already: it only held its place
                self.running -= 1
                self.stuck -= 1
                if self.stuck == self.concurrency - 1:
                    self.background(self.listen())
                self.start_waiting()
            elif error is not None:
                self.failed(call, error)
            else:
                settle(call, future.result())

        if future.done():
            done(future)
        else:
            future.add_done_callback(done)

    def overdue(self, call):
        """The loop turns, so it ends the call itself: a coroutine is cancelled, a thread cannot be."""
        import asyncio

        if self.calls.pop(id(call), None) is None:
            return
        self.stuck += 1  # until it has ended
        self.count(call, True)
        _say(f"event {call.event_id}: the handler took more than {self.settings.timeout_seconds:g} s")
        if self.stuck >= self.concurrency:
            self.leave_to_the_next()
            call.connection.keep = False
        if call.answer_began:
            call.connection.abort()
        else:
            call.connection.respond(408, (), TEXT_TYPE, TOO_LONG)
        if isinstance(call.future, asyncio.Task):
            call.future.cancel()
        self.loop.call_later(CLEANUP_SECONDS, self.replace_if_stuck)

    def replace_if_stuck(self):
        if self.stuck >= self.concurrency and not self.ended.done():
            _say(f"none of the {self.concurrency} handlers that may run at once ends: the process is replaced")
            self.end(REPLACE_ME)

    def finish(self, call, result):
        try:
            status, headers, content_type, body = answer_from(result, self.settings.kubeless)
        except Exception as error:
            self.failed(call, error)
            return
        if isinstance(body, bytes):
            self.release(call, status >= 500)
            call.connection.respond(status, headers, content_type, body)
        else:
            self.calls[id(call)] = call
            stream = self.stream(call, status, headers, content_type, body)
            self.settle_later(call, self.task(stream), self.streamed)

    async def stream(self, call, status, headers, content_type, parts):
        """Sends parts as chunks. What fails before the first part is an answer as any other."""
        connection = call.connection
        try:
            part = await self.next_part(call, parts)
            connection.begin_stream(status, headers, content_type)
            call.answer_began = True
            while part is not END:
                await connection.send_part(part)
                part = await self.next_part(call, parts)
        finally:
            if hasattr(parts, "aclose"):
                await parts.aclose()
            elif hasattr(parts, "close"):
                parts.close()

    async def next_part(self, call, parts):
        if hasattr(parts, "__anext__"):
            try:
                return await parts.__anext__()
            except StopAsyncIteration:
                return END
        if self.threads is None:
            try:
                return self.step(call, next, parts, END)
            finally:
                self.calls[id(call)] = call
        import asyncio

        future = self.in_thread(next, parts, END)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])  # the thread is taken until then
            raise

    def streamed(self, call, _):
        self.release(call, False)
        call.connection.end_stream()

    def failed(self, call, error):
        """The handler raised, or returned nonsense: the traceback is for the log only."""
        status = getattr(error, "status", None)
        if isinstance(error, ClientGone):
            _say(f"event {call.event_id}: {error}")
        elif isinstance(error, BadAnswer):
            _say(f"event {call.event_id}: the handler returned {error}")
        elif not isinstance(error, BadRequest):
            _say_traceback(f"event {call.event_id}: the handler raised\n", error)
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            status = 500
        self.release(call, True)
        if call.answer_began or isinstance(error, ClientGone):
            call.connection.abort()
        else:
            text = f"{error}\n" if isinstance(error, BadRequest) else "the handler failed\n"
            call.connection.respond(status, (), TEXT_TYPE, text.encode(errors="replace"))

    def release(self, call, failed):
        """Its place is free."""
        self.count(call, failed)
        self.running -= 1
        if self.waiting:
            self.start_waiting()

    def count(self, call, failed):
        self.metrics.count(call.method, time.monotonic() - call.started, failed)

    def start_waiting(self):
        """One at the loop's next turn: starting them here would nest as deep as the queue is long."""
        if self.waiting:
            self.loop.call_soon(self.start_oldest)

    def start_oldest(self):
        if self.waiting and self.running < self.concurrency:
            connection, request = self.waiting.popleft()
            if connection.transport is not None:
                self.start(connection, request)
            self.start_waiting()

    async def sweep(self):
        """Ends calls that are past their time and clients that are too slow, and shows that the loop turns."""
        import asyncio

        turns = 0
        while True:
            now = self.turn = time.monotonic()
            for call in [call for call in self.calls.values() if now >= call.deadline]:
                self.overdue(call)
            turns += 1
            if turns % 5 == 0:
                for connection in list(self.connections):
                    connection.check(now)
            await asyncio.sleep(TURN_SECONDS)

    # --- what others ask of it

    def health(self, up):
        """The whole answer to /healthz, for the watching thread."""
        return (
            b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\nkubeirq-concurrency: %d\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
        ) % (
            b"200 OK" if up else b"503 Service Unavailable",
            self.concurrency,
            *((2, b"OK") if up else (9, b"not ready")),
        )

    # --- the end

    def end(self, status):
        if not self.ended.done():
            self.ended.set_result(status)

    async def drain(self, grace_seconds):
        """Takes no more connections, answers what has come, and returns when all is sent or the grace is over."""
        import asyncio

        self.stopping = True
        for _ in range(3):
            await asyncio.sleep(0.02)  # turns of the loop: what the kernel has accepted is taken, too
        self.leave_to_the_next()
        self.listening.close()
        if self.stuck >= self.concurrency:
            while self.waiting:
                connection, _ = self.waiting.popleft()
                connection.respond(503, (("retry-after", "1"),), TEXT_TYPE, b"the function is being replaced\n")
        deadline = self.loop.time() + grace_seconds
        while (self.connections or self.tasks or self.calls) and self.loop.time() < deadline:
            self.close_idle()
            await asyncio.sleep(0.01)
        if self.connections:
            _say(f"{len(self.connections)} connections are cut off: the grace of {grace_seconds:g} s is over")
            for connection in list(self.connections):
                connection.abort()
        await asyncio.sleep(0)

    def close_idle(self):
        """Closes the connections on which no request is, not even one that the kernel has and the loop has not read."""
        idle = {connection.fd: connection for connection in self.connections if connection.is_idle()}
        poll = select.poll()
        for number in idle:
            poll.register(number, select.POLLIN)
        for number, _ in poll.poll(0):
            del idle[number]
        for connection in idle.values():
            connection.close()


def _called(function, *arguments):
    """Calls it in a thread. StopIteration cannot pass a future."""
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


async def _awaited(awaitable):
    """sys.exit in a handler ends the call, not the loop."""
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error


TOO_LONG = b"the handler took too long\n"
TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(TOO_LONG), TOO_LONG)
)


class Watch:
    """The thread that does what the loop cannot while a handler keeps it.

    It ends calls that are past their time: answers 408 in the loop's place, and ends the process. And it answers
    /healthz on new connections, so that no probe takes a slow handler for a dead process.
    """

    PERIOD_SECONDS = 0.05
    AWAY_SECONDS = 0.3  # the loop shows itself every TURN_SECONDS
    MOST_HELD = 512

    def __init__(self, worker, beat, listening):
        self.worker = worker
        self.beat = beat
        self.listening = listening
        self.held = []  # clients that came while the loop was away

    def start(self):
        import threading

        threading.Thread(target=self.run, daemon=True, name="watch").start()

    def run(self):
        worker = self.worker
        while True:
            now = time.monotonic()
            _BEAT.pack_into(self.beat, 0, now, worker.ready)
            away = now - worker.turn
            if worker.ready and away < self.AWAY_SECONDS:
                self.hand_over()
                time.sleep(self.PERIOD_SECONDS)
            else:
                self.attend()
            now = time.monotonic()
            # a call in a task is ended by the loop, as long as that turns
            overdue = [
                call
                for call in worker.calls.copy().values()
                if now >= call.deadline and (call.inline or now - worker.turn > CLEANUP_SECONDS)
            ]
            if overdue:
                self.end(overdue)

    def end(self, overdue):
        """Answers them and ends the process, unless they came back just now."""
        ended = [call for call in overdue if self.worker.calls.pop(id(call), None) is not None]
        if not ended:
            return
        for call in ended:
            if not call.answer_began:
                call.connection.answer_from_outside(TIMED_OUT)
        names = ", ".join(str(call.event_id) for call in ended)
        text = (
            f"runtime: event {names}: the handler took more than {self.worker.settings.timeout_seconds:g} s: replaced\n"
        )
        # not sys.stderr: the handler may hold its lock for ever, or nobody may read the log
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode(errors="replace"))
        os._exit(REPLACE_ME)

    def hand_over(self):
        while self.held:
            self.worker.loop.call_soon_threadsafe(self.worker.adopt, self.held.pop(0))

    def attend(self):
        """Accepts for the loop, for one period, and answers probes."""
        poll = select.poll()
        end = time.monotonic() + self.PERIOD_SECONDS
        try:
            if len(self.held) < self.MOST_HELD:
                poll.register(self.listening, select.POLLIN)
            for _ in range(self.MOST_HELD - len(self.held)):
                if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                    break
                client, _ = self.listening.accept()
                client.setblocking(False)
                self.held.append(client)
        except BlockingIOError:
            pass  # the loop was quicker
        except (OSError, ValueError):
            time.sleep(self.PERIOD_SECONDS)  # the process stops: nothing is listened on any more
        self.held = [client for client in self.held if not self.probed(client)]
        time.sleep(max(0.0, end - time.monotonic()))

    def probed(self, client):
        """Answers and closes it if it asks for /healthz, and says whether it did."""
        try:
            if not client.recv(14, socket.MSG_PEEK).startswith((b"GET /healthz ", b"GET /healthz?")):
                return False
            client.recv(65_536)
            up = self.worker.ready and not self.worker.stopping
            client.send(self.worker.health(up))
            client.close()
        except BlockingIOError:
            return False
        except OSError:
            client.close()
        return True


class Metrics:
    """Calls, failures and durations by method, as Kubeless named them."""

    BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
    METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

    def __init__(self):
        self.methods = {}  # calls, failures, seconds, buckets
        self.started = time.time()

    def count(self, method, seconds, failed):
        found = self.methods.get(method)
        if found is None:
            if method not in self.METHODS:
                method = "OTHER"
            found = self.methods.setdefault(method, [0, 0, 0.0, [0] * (len(self.BOUNDS) + 1)])
        found[0] += 1
        found[1] += failed
        found[2] += seconds
        index = 0
        for bound in self.BOUNDS:
            if seconds <= bound:
                break
            index += 1
        found[3][index] += 1

    def text(self):
        """Prometheus' text format."""
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm") as pages:
            resident = int(pages.read().split()[1]) * mmap.PAGESIZE
        lines = ["# HELP function_calls_total Calls of the handler.", "# TYPE function_calls_total counter"]
        lines += [f'function_calls_total{{method="{name}"}} {found[0]}' for name, found in self.methods.items()]
        lines.append(
            "# HELP function_failures_total Calls that were answered with 500 or more, raised, or took too long."
        )
        lines.append("# TYPE function_failures_total counter")
        lines += [f'function_failures_total{{method="{name}"}} {found[1]}' for name, found in self.methods.items()]
        lines.append("# HELP function_duration_seconds From the handler's start to its answer.")
        lines.append("# TYPE function_duration_seconds histogram")
        for name, (calls, _, seconds, buckets) in self.methods.items():
            total = 0
            for bound, number in zip((*map(str, self.BOUNDS), "+Inf"), buckets):
                total += number
                lines.append(f'function_duration_seconds_bucket{{method="{name}",le="{bound}"}} {total}')
            lines.append(f'function_duration_seconds_sum{{method="{name}"}} {seconds}')
            lines.append(f'function_duration_seconds_count{{method="{name}"}} {calls}')
        lines += [
            "# TYPE process_cpu_seconds_total counter",
            f"process_cpu_seconds_total {used.ru_utime + used.ru_stime}",
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {resident}",
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self.started}",
        ]
        return "\n".join(lines) + "\n"


# --- HTTP/1.1


HEADER_LIMIT = 65_536
MOST_CONNECTIONS = 4096
SLOWEST_BYTES_PER_SECOND = 1000  # of a body, beyond the client's time-out
OVERHEAD = 8  # bytes on the wire for one of a body: chunks of a single byte have six
IDLE_SECONDS = 75.0
REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found",
    408: "Request Timeout", 413: "Content Too Large", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
OK_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def _protocol_class():
    """Made here, so that the supervisor imports neither asyncio nor the parser."""
    import asyncio

    try:
        import httptools
    except ImportError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        problem = f"httptools is not there for Python {version}; what lies beside the runtime may be for another one"
        raise ImportError(f"{problem}: {error}") from None

    class Connection(asyncio.Protocol):
        """One client. Requests that come before the last one is answered wait in order."""

        __slots__ = (
            "began", "body", "body_bytes", "counted_bytes", "fd", "head_only", "headers", "is_broken", "is_busy",
            "keep", "last", "parser", "pending", "received", "refusal", "target", "transport", "unsent", "worker",
            "writable",
        )  # fmt: skip

        def __init__(self, worker):
            self.worker = worker
            self.transport = None
            self.fd = -1
            self.parser = httptools.HttpRequestParser(self)
            self.pending = []  # whole requests that wait for the answer before theirs
            self.is_busy = False  # a request is being answered
            self.last = time.monotonic()  # when bytes last went or came
            self.began = self.last  # when the first byte of the request came
            self.is_broken = False
            self.refusal = None  # what is said at the end of a broken connection
            self.received = 0  # bytes since the last whole request
            self.head_only = False
            self.keep = True
            self.writable = None  # an event while the transport's buffer is full
            self.unsent = 0
            self.headers = None  # None between requests
            self.body = None  # None until the header is complete
            self.body_bytes = 0
            self.counted_bytes = 0
            self.target = b""

        def connection_made(self, transport):
            self.transport = transport
            self.fd = transport.get_extra_info("socket").fileno()
            if len(self.worker.connections) >= MOST_CONNECTIONS:
                self.refuse(503, b"too many connections\n")
            else:
                self.worker.connections.add(self)

        def connection_lost(self, error):
            self.transport = None
            self.pending.clear()
            self.uncount()
            self.worker.connections.discard(self)
            if self.writable is not None:
                self.writable.set()

        def eof_received(self):
            """Who sends no more may still read: it gets what it asked for."""
            self.keep = False
            self.pending.clear()
            return self.is_busy

        def pause_writing(self):
            self.writable = asyncio.Event()
            self.transport.pause_reading()  # who does not read its answers gets no more of them

        def resume_writing(self):
            self.writable.set()
            self.writable = None
            self.next_request()

        def data_received(self, data):
            if self.is_broken:
                return
            self.last = time.monotonic()
            self.received += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self.parse_again(data[upgrade.args[0] :])
            except httptools.HttpParserCallbackError:
                import traceback

                traceback.print_exc()
                self.refuse(500, b"the runtime failed\n")
            except httptools.HttpParserError as error:
                self.refuse(400, f"no HTTP: {error}\n".encode())
            else:
                if self.headers is not None and self.received > HEADER_LIMIT + OVERHEAD * self.body_bytes:
                    if self.body is None:
                        self.refuse(431, b"the header is too large\n")
                    else:
                        self.refuse(400, b"more framing than body\n")

        def parse_again(self, rest):
            """No other protocol is spoken. The parser leaves out the body of who asks for one: the head is fed anew."""
            if self.is_broken:
                return
            left_out = ("upgrade", "connection", "http2-settings")
            lines = [f"{name}: {value}" for name, value in self.headers.items() if name not in left_out]
            method = self.parser.get_method().decode("latin-1")
            head = "\r\n".join([f"{method} {self.target.decode('latin-1')} HTTP/1.1", *lines, "", ""])
            self.parser = httptools.HttpRequestParser(self)
            self.data_received(head.encode("latin-1") + rest)

        # the parser's side

        def on_message_begin(self):
            self.headers = {}
            self.body = None
            self.body_bytes = 0
            self.target = b""
            self.began = self.last

        def on_url(self, url):
            self.target += url

        def on_header(self, name, value):
            if self.body is not None:
                return  # a trailer: nobody asked for it, and it must not pass for a header
            name = name.decode("latin-1").lower()
            value = value.decode("latin-1")
            if name in self.headers:
                value = f"{self.headers[name]}, {value}"
            self.headers[name] = value

        def on_headers_complete(self):
            self.body = b""
            if self.is_broken:
                return
            headers = self.headers
            length = headers.get("content-length")
            size = len(self.target)
            for name, value in headers.items():
                size += len(name) + len(value) + len(": \r\n")
            if size > HEADER_LIMIT:
                self.refuse(431, b"the header is too large\n")
            elif length is not None and "transfer-encoding" in headers:
                self.refuse(400, b"content-length and transfer-encoding\n")
            elif length is not None and (len(length) > 18 or int(length) > self.worker.settings.body_limit_bytes):
                self.refuse(413, b"the body is too large\n")
            elif "expect" in headers and headers["expect"].lower() == "100-continue" and not self.is_busy:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        def on_body(self, data):
            if self.is_broken:
                return
            worker = self.worker
            self.body_bytes += len(data)
            self.counted_bytes += len(data)
            worker.body_bytes += len(data)
            if self.body_bytes > worker.settings.body_limit_bytes:
                self.refuse(413, b"the body is too large\n")
            elif worker.body_bytes > MOST_BODY_BYTES:
                self.refuse(503, b"too many large requests at once\n")
            elif not self.body:
                self.body = data
            elif isinstance(self.body, list):
                self.body.append(data)
            else:
                self.body = [self.body, data]

        def on_message_complete(self):
            if self.is_broken:
                return
            body = self.body
            if isinstance(body, list):
                body = b"".join(body)
            parser = self.parser
            headers = self.headers
            method = parser.get_method().decode("latin-1")
            if parser.should_upgrade() and method != "CONNECT":
                return  # parse_again follows
            request = Request(method, self.target.decode("latin-1"), headers, body)
            keep = parser.should_keep_alive()
            if "connection" in headers and keep and parser.get_http_version() == "1.0":
                keep = False  # its way to keep a connection is not spoken here
            self.headers = None
            self.received = 0
            if method == "CONNECT":
                self.refuse(501, b"this is no proxy\n")
            elif self.is_busy or self.writable is not None:
                self.pending.append((request, keep))
                self.transport.pause_reading()
            else:
                self.begin(request, keep)

        # ours

        def begin(self, request, keep):
            self.is_busy = True
            self.keep = keep and self.keep and not self.worker.stopping
            method = request.method
            self.head_only = method == "HEAD"
            if method == "GET" and self.own(request.path):
                return
            self.worker.accept(self, request)

        def own(self, path):
            """/healthz and /metrics."""
            worker = self.worker
            if path == "/healthz":
                up = worker.ready and not worker.stopping
                headers = (("kubeirq-concurrency", str(worker.concurrency)),)
                self.respond(200 if up else 503, headers, TEXT_TYPE, b"OK" if up else b"not ready")
            elif path == "/metrics":
                self.respond(200, (), "text/plain; version=0.0.4", worker.metrics.text().encode())
            else:
                return False
            return True

        def respond(self, status, headers, content_type, body):
            transport = self.transport
            if transport is None:
                return
            if status == 200 and content_type == JSON_TYPE and not headers and self.keep and not self.head_only:
                transport.write(OK_JSON % (len(body), body))
            elif status in (204, 304):
                transport.write(self.head(status, headers, None) + b"\r\n")
            else:
                head = b"%bcontent-length: %d\r\n\r\n" % (self.head(status, headers, content_type), len(body))
                transport.write(head if self.head_only else head + body)
            self.answered()

        def head(self, status, headers, content_type):
            """Status line and headers, without the empty line at the end."""
            lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\n"]
            for name, value in headers:
                if name == "content-type":
                    content_type = None
                elif name in ("content-length", "transfer-encoding", "connection", "keep-alive"):
                    continue  # the connection's own
                lines.append(f"{name}: {value}\r\n")
            if content_type is not None:
                lines.append(f"content-type: {content_type}\r\n")
            if not self.keep:
                lines.append("connection: close\r\n")
            return "".join(lines).encode(errors="replace")

        def answered(self):
            self.is_busy = False
            self.last = self.began = time.monotonic()
            if not self.pending:
                self.uncount()
            if not self.keep:
                self.transport.close()
            elif self.pending or self.refusal is not None:
                self.worker.loop.call_soon(self.next_request)

        def next_request(self):
            """Goes on with what came in the meantime, or reads on."""
            if self.transport is None or self.is_busy or self.writable is not None:
                return
            if self.pending:
                self.begin(*self.pending.pop(0))
            elif self.refusal is not None:
                (status, text), self.refusal = self.refusal, None
                self.keep = self.head_only = False
                self.respond(status, (("retry-after", "1"),) if status == 503 else (), TEXT_TYPE, text)
                return
            if not self.pending and not self.is_broken:
                self.transport.resume_reading()

        def uncount(self):
            self.worker.body_bytes -= self.counted_bytes
            self.counted_bytes = 0

        def begin_stream(self, status, headers, content_type):
            if self.transport is None:
                raise ClientGone("the client is gone")
            if self.parser.get_http_version() == "1.0":
                raise BadAnswer("a stream, which HTTP/1.0 has not")
            self.transport.write(self.head(status, headers, content_type) + b"transfer-encoding: chunked\r\n\r\n")

        async def send_part(self, part):
            if isinstance(part, str):
                part = part.encode(errors="replace")
            elif isinstance(part, (dict, list)):
                part = dumps(part) + b"\n"
            elif not isinstance(part, (bytes, bytearray)):
                raise BadAnswer(f"a part that is a {type(part).__name__}")
            if self.writable is not None:
                try:
                    async with asyncio.timeout(self.worker.settings.client_seconds):
                        await self.writable.wait()
                except TimeoutError:
                    raise ClientGone("the client reads too slowly") from None
            if self.transport is None:
                raise ClientGone("the client is gone")
            if part and not self.head_only:
                self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0)  # others have their turn

        def end_stream(self):
            if self.transport is not None:
                if not self.head_only:
                    self.transport.write(b"0\r\n\r\n")
                self.answered()

        def refuse(self, status, text):
            """What cannot be understood ends the connection: where the next request begins is unknown."""
            if self.is_broken:
                return
            self.is_broken = True
            self.refusal = (status, text)
            self.next_request()  # after the answers to what came before it

        def is_idle(self):
            return not self.is_busy and self.headers is None and not self.transport.get_write_buffer_size()

        def check(self, now):
            """Ends a connection that sends or reads too slowly, or that nobody uses."""
            if self.transport is None or self.is_busy:
                return
            seconds = self.worker.settings.client_seconds
            unsent = self.transport.get_write_buffer_size()
            if unsent:
                if unsent != self.unsent:
                    self.last = now
                elif now - self.last > seconds:
                    self.abort()
            elif self.headers is not None and not self.is_broken:
                if now - self.began > seconds + self.body_bytes / SLOWEST_BYTES_PER_SECOND:
                    self.refuse(408, b"the request came too slowly\n")
            elif now - self.last > IDLE_SECONDS:
                self.close()
            self.unsent = unsent

        def close(self):
            if self.transport is not None:
                self.transport.close()

        def abort(self):
            if self.transport is not None:
                self.transport.abort()

        def answer_from_outside(self, answer):
            """Called by the watching thread, when the loop will not turn again."""
            transport = self.transport
            if transport is None or transport.get_write_buffer_size():
                return  # nobody is there, or half of an answer is before it
            try:
                os.write(self.fd, answer)
            except OSError:
                return  # the client is gone

    return Connection


if __name__ == "__main__":
    sys.exit(main())
