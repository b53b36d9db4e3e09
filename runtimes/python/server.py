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
STARTS_TRIED = 5
WORKER_STOP_SECONDS = 5.0  # beyond the grace, before SIGKILL
HANG_SECONDS = 3.0  # beyond the time-out: a C call that keeps the interpreter's lock stops even the watching thread


# --- the supervisor: small, and imported before anything large, since its memory is paid for twice


def main() -> int:
    environment = os.environ
    grace = float(environment.get("FUNC_GRACE") or 30)
    timeout = float(environment.get("FUNC_TIMEOUT") or 180)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((environment.get("FUNC_HOST") or "0.0.0.0", int(environment.get("FUNC_PORT") or 8080)))
    listening.listen(1024)
    listening.setblocking(False)
    watched = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    failures = 0
    while True:
        pid, beat, alive = _start_worker(listening, watched)
        status, asked = _watch(pid, beat, timeout, grace, listening, watched)
        os.close(alive)
        served = _read_beat(beat) > 0
        beat.close()
        if asked:
            return 0 if status == 0 else 1
        if served and status != NOT_STARTED:
            failures = 0
        else:
            failures += 1
            if failures >= (STARTS_TRIED if served else 1):
                _say(f"the function does not start (exit {status}): giving up")
                return NOT_STARTED
        if status != REPLACE_ME:
            _say(f"worker ended with {_exit_text(status)}: starting another")
            time.sleep(min(5.0, 0.1 * 2**failures) if failures else 0)


def _start_worker(listening, watched):
    """Forks; returns pid, heartbeat and the pipe whose end tells the worker that the supervisor is gone."""
    beat = mmap.mmap(-1, mmap.PAGESIZE)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        return pid, beat, writer
    os.close(writer)
    status = NOT_STARTED
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both: the supervisor passes on SIGTERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        status = _worker_main(listening, beat, reader)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(pid, beat, timeout, grace, listening, watched):
    """Waits for the worker's end; (exit status, whether it was asked for)."""
    asked = False
    deadline = None
    while True:
        found = signal.sigtimedwait(watched, 0.5)
        if found is not None and found.si_signo != signal.SIGCHLD and not asked:
            asked = True
            deadline = time.monotonic() + grace + WORKER_STOP_SECONDS
            listening.close()
            os.kill(pid, signal.SIGTERM)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), asked
        now = time.monotonic()
        last = _read_beat(beat)
        if last and timeout > 0 and now - last > timeout + HANG_SECONDS:
            _say("the worker hangs in a call that no thread can interrupt: killed")
            os.kill(pid, signal.SIGKILL)
        if deadline is not None and now > deadline:
            _say("the worker did not stop within its grace: killed")
            os.kill(pid, signal.SIGKILL)


def _read_beat(beat):
    return struct.unpack_from("d", beat)[0]


def _exit_text(status):
    return f"exit code {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _say(text):
    sys.stderr.write(f"runtime: {text}\n")
    sys.stderr.flush()


# --- the worker


def _worker_main(listening, beat, supervisor):
    """Serves until SIGTERM; the exit status."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.run(_serve(listening, beat, supervisor))
    return uvloop.run(_serve(listening, beat, supervisor))


async def _serve(listening, beat, supervisor):
    import asyncio

    loop = asyncio.get_running_loop()
    sys.path.insert(0, os.environ.get("KUBEIRQ_CODE_PATH") or os.getcwd())
    settings = Settings(os.environ)
    if settings.debug_port:
        import debugpy

        debugpy.listen(("127.0.0.1", settings.debug_port))
    try:
        worker = Worker(settings, loop)
        await worker.run_hook(settings.startup)
    except Exception:
        import traceback

        traceback.print_exc()
        return NOT_STARTED
    _limit_memory(settings.memory_limit_bytes)
    server = await loop.create_server(worker.connection, sock=listening)
    watch = Watch(worker, beat, supervisor)
    watch.start()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    worker.ready = True
    sweep = loop.create_task(worker.sweep())
    await stopping.wait()
    worker.stopping = True
    await asyncio.sleep(0.05)  # what the kernel has accepted already is still answered
    server.close()
    worker.close_idle()
    deadline = loop.time() + settings.grace_seconds
    while worker.busy() and loop.time() < deadline:
        await asyncio.sleep(0.01)
    sweep.cancel()
    await worker.run_hook(settings.shutdown)
    for connection in list(worker.connections):
        connection.close()
    await asyncio.sleep(0)
    return 0


class Settings:
    """The contract's variables."""

    def __init__(self, environment):
        get = environment.get
        handler = get("FUNC_HANDLER") or "handler"
        module = get("MOD_NAME")
        if not module:
            module, _, handler = handler.rpartition(".")
        if not module:
            raise ValueError("MOD_NAME: the module of the handler is needed, or FUNC_HANDLER as module.function")
        self.module = module
        self.handler = handler.rpartition(".")[2]
        self.function_name = get("FUNC_NAME") or module
        self.timeout_seconds = float(get("FUNC_TIMEOUT") or 180)
        self.runtime = get("FUNC_RUNTIME") or f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.memory_limit = get("FUNC_MEMORY_LIMIT") or "0"
        self.memory_limit_bytes = bytes_of(self.memory_limit)
        self.concurrency = int(get("FUNC_CONCURRENCY") or 0)
        self.startup = get("FUNC_STARTUP") or ""
        self.shutdown = get("FUNC_SHUTDOWN") or ""
        self.body_limit_bytes = int(get("FUNC_BODY_LIMIT") or 8 * 1024 * 1024)
        self.grace_seconds = float(get("FUNC_GRACE") or 30)
        self.kubeless = get("KUBEIRQ_KUBELESS") == "1"
        self.debug_port = int(get("KUBEIRQ_DEBUG_PORT") or 0)
        if self.debug_port:
            self.timeout_seconds = float(10**9)


def bytes_of(quantity):
    """Bytes of a Kubernetes quantity: 128Mi, 1G, 1000. Raises ValueError."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    for unit, factor in units.items():
        if quantity.endswith(unit):
            return int(float(quantity[: -len(unit)]) * factor)
    return int(float(quantity))


def _limit_memory(limit):
    if limit <= 0:
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


# --- calls: from a request to the handler and back


class Request:
    """The request as it came, for handlers that ask: `event['extensions']['request']`."""

    __slots__ = ("body", "headers", "method", "target")

    def __init__(self, method, target, headers, body):
        self.method = method
        self.target = target
        self.headers = headers  # lower-case names
        self.body = body

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
        text = self.headers.get("kubeirq-path-params")
        return loads(text) if text else {}

    def __getitem__(self, name):
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


class Event(dict):
    """Kubeless' event, and under `cloudevent` the attributes and raw bytes of the CloudEvent, parsed when asked for."""

    __slots__ = ("_attributes", "_data")

    def __missing__(self, name):
        if name != "cloudevent":
            raise KeyError(name)
        found = self["cloudevent"] = {"attributes": self._attributes(), "data": self._data}
        return found

    def get(self, name, default=None):
        return self[name] if name == "cloudevent" else dict.get(self, name, default)

    def __contains__(self, name):
        return name == "cloudevent" or dict.__contains__(self, name)


def event_from(request):
    """The event that a request carries: CloudEvents binary or structured, Kubeless' headers, or a plain request.

    Raises BadRequest for what claims to be JSON or a CloudEvent and is none.
    """
    headers, body = request.headers, request.body
    content_type = headers.get("content-type", "")
    event = Event()
    if content_type.startswith("application/cloudevents+json"):
        envelope = _json(body)
        if not isinstance(envelope, dict):
            raise BadRequest("the CloudEvent is no JSON object")
        attributes = {name: value for name, value in envelope.items() if name not in ("data", "data_base64")}
        data = envelope.get("data")
        if "data_base64" in envelope:
            import base64

            data = base64.b64decode(envelope["data_base64"])
        event._data = body
        event._attributes = lambda: attributes
        get = attributes.get
        event.update(
            {
                "data": data,
                "event-id": get("id"),
                "event-type": get("type"),
                "event-time": get("time"),
                "event-namespace": get("source"),
                "extensions": {"request": request},
            }
        )
        return event
    get = headers.get
    event._data = body
    event._attributes = lambda: _binary_attributes(headers)
    event["data"] = _data(body, content_type)
    if "ce-id" in headers:
        event["event-id"] = _unescaped(headers["ce-id"])
        event["event-type"] = get("ce-type")
        event["event-time"] = get("ce-time")
        event["event-namespace"] = get("ce-source")
    else:
        event["event-id"] = get("event-id")
        event["event-type"] = get("event-type")
        event["event-time"] = get("event-time")
        event["event-namespace"] = get("event-namespace")
    event["extensions"] = {"request": request}
    return event


class BadRequest(Exception):
    """The caller's fault."""

    status = 400


def _data(body, content_type):
    """JSON parsed, text/* as text, nothing as None, anything else as bytes."""
    if not body:
        return None
    if content_type == "application/json":
        return _json(body)
    media = content_type.partition(";")[0].strip().lower()
    if media in ("application/json", "text/json") or media.endswith("+json"):
        return _json(body)
    if media.startswith("text/"):
        return body.decode(errors="replace")
    return body


def _json(body):
    try:
        return loads(body)
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {error}") from None


def _binary_attributes(headers):
    found = {name[3:]: _unescaped(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        found["datacontenttype"] = headers["content-type"]
    return found


def _unescaped(value):
    if "%" not in value:
        return value
    from urllib.parse import unquote

    return unquote(value)


def loads(text):
    """Parses JSON with the fastest parser that is there."""
    _choose_json()
    return loads(text)


def dumps(value):
    _choose_json()
    return dumps(value)


def _choose_json():
    """At the first call, so that the supervisor need not hold a parser."""
    global loads, dumps
    try:
        import orjson
    except ImportError:
        import json

        loads = json.loads

        def dumps(value):
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

    else:
        loads, dumps = orjson.loads, orjson.dumps


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
            return status, headers, JSON_TYPE, dumps(result)
        except (TypeError, ValueError) as error:
            raise BadAnswer(f"no JSON: {error}") from None
    if isinstance(result, str):
        return status, headers, TEXT_TYPE, result.encode(errors="replace")
    if isinstance(result, (bytes, bytearray, memoryview)):
        return status, headers, BYTES_TYPE, bytes(result)
    if hasattr(result, "__next__") or hasattr(result, "__anext__"):
        return status, headers, TEXT_TYPE, result
    raise BadAnswer(f"a {type(result).__name__} is no answer; bytes, str, dict, list, None, a tuple or a generator is")


def _pairs(headers):
    pairs = []
    for name, value in headers.items() if hasattr(headers, "items") else headers:
        name, value = str(name), str(value)
        if any(c in "\r\n\0" for c in name + value) or not name or not name.isascii() or " " in name or ":" in name:
            raise BadAnswer(f"{name!r}: a header's name or value with a character that would break the answer")
        pairs.append((name.lower(), value))
    return pairs


class Call:
    """One request that is being handled."""

    __slots__ = ("connection", "deadline", "event_id", "inline", "method", "started", "task")

    def __init__(self, connection, method, started, deadline):
        self.connection = connection
        self.method = method
        self.started = started
        self.deadline = deadline
        self.event_id = ""
        self.inline = False
        self.task = None


class Worker:
    """The handler, the calls under way, and what was counted."""

    def __init__(self, settings, loop):
        import importlib
        import inspect

        self.settings = settings
        self.loop = loop
        module = importlib.import_module(settings.module)
        self.handler = getattr(module, settings.handler, None)
        if not callable(self.handler):
            raise ValueError(f"FUNC_HANDLER: module {settings.module!r} has no function {settings.handler!r}")
        self.is_async = inspect.iscoroutinefunction(self.handler) or inspect.isasyncgenfunction(self.handler)
        self.concurrency = settings.concurrency or (16 if self.is_async else 1)
        self.inline = not self.is_async and self.concurrency == 1
        self.threads = None
        if not self.is_async and not self.inline:
            from concurrent.futures import ThreadPoolExecutor

            self.threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="handler")
        self.state = {}
        self.context = {
            "function-name": settings.function_name,
            "timeout": settings.timeout_seconds,
            "runtime": settings.runtime,
            "memory-limit": settings.memory_limit,
            "state": self.state,
        }
        self.ready = False
        self.stopping = False
        self.connections = set()
        self.calls = {}  # those under way, by id; whoever pops one answers it
        self.waiting = []  # requests beyond the concurrency, oldest first
        self.running = 0
        self.stuck = 0  # threads that are past their time
        self.turn = time.monotonic()  # when the loop last turned
        self.metrics = Metrics()
        self.tasks = set()
        self.protocol = _protocol_class()

    def connection(self):
        return self.protocol(self)

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

    def busy(self):
        return bool(self.calls or self.waiting or self.tasks)

    def close_idle(self):
        for connection in list(self.connections):
            if not connection.is_busy:
                connection.close()

    # --- one call

    def accept(self, connection, request):
        """A whole request came: run it now, or when there is room."""
        if self.inline or self.running < self.concurrency:
            self.start(connection, request)
        elif len(self.waiting) >= MOST_WAITING:
            connection.respond(503, (("retry-after", "1"),), TEXT_TYPE, b"too many requests wait\n")
        else:
            self.waiting.append((connection, request))

    def start(self, connection, request):
        now = time.monotonic()
        timeout = self.settings.timeout_seconds
        call = Call(connection, request.method, now, now + timeout)
        headers = request.headers
        try:
            event = event_from(request)
        except Exception as error:
            self.failed(call, error)
            return
        call.event_id = event["event-id"]
        context = self.context.copy()
        attempt = headers.get("kubeirq-attempt")
        context["attempt"] = int(attempt) if attempt and attempt.isdigit() else 1
        context["deadline"] = time.time() + timeout
        self.calls[id(call)] = call
        self.running += 1
        if self.inline:
            call.inline = True
            try:
                result = self.handler(event, context)
            except BaseException as error:
                self.taken(call)
                self.failed(call, error)
            else:
                self.taken(call)
                self.finish(call, result)
        elif self.threads is not None:
            future = self.threads.submit(self.handler, event, context)
            self.run(call, _outcome_of(future), threaded=future)
        else:
            self.run_async(call, event, context)

    def run_async(self, call, event, context):
        """Steps the coroutine at once: one that never waits needs no task."""
        result = self.handler(event, context)
        if hasattr(result, "__anext__"):
            self.finish_later(call, result)
            return
        try:
            awaited = result.send(None)
        except StopIteration as done:
            if self.calls.pop(id(call), None) is not None:
                self.finish(call, done.value)
        except BaseException as error:
            if self.calls.pop(id(call), None) is not None:
                self.failed(call, error)
        else:
            self.run(call, _rest_of(result, awaited))

    def finish_later(self, call, result):
        if self.calls.pop(id(call), None) is not None:
            self.finish(call, result)

    def run(self, call, awaitable, threaded=None):
        """Waits for a handler in a task of its own, no longer than its time."""
        task = self.loop.create_task(awaitable)
        call.task = task
        timer = self.loop.call_later(self.settings.timeout_seconds, self.overdue, call, threaded)

        def done(task):
            timer.cancel()
            if self.calls.pop(id(call), None) is None:
                if not task.cancelled():
                    task.exception()
                return  # answered with 408 already
            if task.cancelled():
                self.failed(call, RuntimeError("the handler was cancelled"))
            elif task.exception() is not None:
                self.failed(call, task.exception())
            else:
                self.finish(call, task.result())

        task.add_done_callback(done)

    def overdue(self, call, threaded):
        """The loop turns, so it ends the call itself: a coroutine is cancelled, a thread cannot be."""
        if self.calls.pop(id(call), None) is None:
            return
        self.count(call, True)
        _say(f"event {call.event_id}: the handler took more than {self.settings.timeout_seconds:g} s")
        call.connection.respond(408, (), TEXT_TYPE, b"the handler took too long\n")
        call.task.cancel()
        if threaded is None:
            self.next_one()
            return
        self.stuck += 1
        threaded.add_done_callback(lambda _: self.loop.call_soon_threadsafe(self.unstuck))
        if self.stuck >= self.concurrency:
            _say("every thread is stuck: the process is replaced")
            sys.stderr.flush()
            os._exit(REPLACE_ME)

    def unstuck(self):
        self.stuck -= 1
        self.next_one()

    def taken(self, call):
        """The handler came back. If the watching thread answered in its place, this process is about to end."""
        if self.calls.pop(id(call), None) is None:
            time.sleep(60)

    def finish(self, call, result):
        try:
            status, headers, content_type, body = answer_from(result, self.settings.kubeless)
        except BadAnswer as error:
            self.failed(call, error)
            return
        if isinstance(body, bytes):
            self.count(call, status >= 500)
            call.connection.respond(status, headers, content_type, body)
            self.next_one()
            return
        task = self.loop.create_task(self.stream(call, status, headers, content_type, body))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def stream(self, call, status, headers, content_type, parts):
        """Sends parts as chunks. A failure in the middle ends the connection: the reader sees that it is not all."""
        import asyncio

        connection = call.connection
        failed = True
        try:
            async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
                connection.begin_stream(status, headers, content_type)
                if hasattr(parts, "__anext__"):
                    async for part in parts:
                        await connection.send_part(part)
                else:
                    # a generator's steps run in this thread, each watched like a call of its own
                    while True:
                        self.calls[id(call)] = call
                        call.inline = True
                        try:
                            part = next(parts, self)
                        finally:
                            self.taken(call)
                        if part is self:
                            break
                        await connection.send_part(part)
                connection.end_stream()
                failed = False
        except TimeoutError:
            _say(f"event {call.event_id}: streaming took more than {self.settings.timeout_seconds:g} s")
            connection.abort()
        except Exception:
            _log_error(call.event_id)
            connection.abort()
        finally:
            self.count(call, failed)
            self.next_one()

    def failed(self, call, error):
        """The handler raised, or returned nonsense: the traceback is for the log only."""
        status = getattr(error, "status", None)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            status = None
        if isinstance(error, BadAnswer):
            _say(f"event {call.event_id}: the handler returned {error}")
        elif not isinstance(error, BadRequest):
            import traceback

            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            sys.stderr.write(f"event {call.event_id}: the handler raised\n{text}")
            sys.stderr.flush()
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            status = 500
        self.count(call, True)
        text = f"{error}\n" if isinstance(error, BadRequest) else "the handler failed\n"
        call.connection.respond(status, (), TEXT_TYPE, text.encode())
        self.next_one()

    def count(self, call, failed):
        self.metrics.count(call.method, time.monotonic() - call.started, failed)
        self.running -= 1

    def next_one(self):
        while self.waiting and self.running + self.stuck < self.concurrency:
            connection, request = self.waiting.pop(0)
            if connection.transport is not None:
                self.start(connection, request)

    async def sweep(self):
        """Ends connections that are too slow, and shows that the loop turns."""
        import asyncio

        while True:
            now = self.turn = time.monotonic()
            for connection in list(self.connections):
                connection.check(now)
            await asyncio.sleep(0.2)


MOST_WAITING = 1000


async def _outcome_of(future):
    """What a thread returns. Cancelling this leaves the thread's own future alone: a thread cannot be cancelled."""
    import asyncio

    return await asyncio.shield(asyncio.wrap_future(future))


class _Resume:
    """The rest of a coroutine that was stepped once: what it waited for first is waited for first."""

    def __init__(self, coroutine, awaited):
        self.coroutine = coroutine
        self.awaited = awaited

    def __await__(self):
        coroutine, awaited = self.coroutine, self.awaited
        while True:
            try:
                sent = yield awaited
            except BaseException as error:
                try:
                    awaited = coroutine.throw(error)
                except StopIteration as done:
                    return done.value
            else:
                try:
                    awaited = coroutine.send(sent)
                except StopIteration as done:
                    return done.value


async def _rest_of(coroutine, awaited):
    return await _Resume(coroutine, awaited)


def _log_error(event_id):
    import traceback

    sys.stderr.write(f"event {event_id}: the handler raised\n{traceback.format_exc()}")
    sys.stderr.flush()


class Watch:
    """The thread that ends what the loop cannot: it answers 408 in its place, and replaces the process."""

    def __init__(self, worker, beat, supervisor):
        self.worker = worker
        self.beat = beat
        self.supervisor = supervisor

    def start(self):
        import threading

        threading.Thread(target=self.run, daemon=True, name="watch").start()

    def run(self):
        worker = self.worker
        while True:
            struct.pack_into("d", self.beat, 0, time.monotonic())
            ready, _, _ = select.select([self.supervisor], [], [], 0.05)
            if ready:
                os._exit(1)  # the supervisor is gone: nobody would restart or stop this process
            now = time.monotonic()
            for key, call in list(worker.calls.items()):
                # the loop ends what it can by itself, as long as it turns
                if now >= call.deadline and (call.inline or now - worker.turn > 1.0):
                    self.end(worker, key)

    def end(self, worker, key):
        """Answers every call that is overdue, then ends the process."""
        now = time.monotonic()
        overdue = [call for call in list(worker.calls.values()) if now >= call.deadline]
        if worker.calls.pop(key, None) is None:
            return  # it came back just now
        for call in overdue:
            _say(f"event {call.event_id}: the handler took more than {worker.settings.timeout_seconds:g} s: replaced")
            call.connection.answer_from_outside(TIMED_OUT)
        os._exit(REPLACE_ME)


TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: 26\r\n\r\nthe handler took too long\n"
)


class Metrics:
    """Calls, failures and durations by method, as Kubeless named them."""

    BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
    METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

    def __init__(self):
        self.methods = {}  # calls, failures, seconds, buckets

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
        lines = ["# TYPE function_calls_total counter"]
        lines += [f'function_calls_total{{method="{name}"}} {found[0]}' for name, found in self.methods.items()]
        lines.append("# TYPE function_failures_total counter")
        lines += [f'function_failures_total{{method="{name}"}} {found[1]}' for name, found in self.methods.items()]
        lines.append("# TYPE function_duration_seconds histogram")
        for name, (calls, _, seconds, buckets) in self.methods.items():
            total = 0
            for bound, number in zip((*map(str, self.BOUNDS), "+Inf"), buckets):
                total += number
                lines.append(f'function_duration_seconds_bucket{{method="{name}",le="{bound}"}} {total}')
            lines.append(f'function_duration_seconds_sum{{method="{name}"}} {seconds}')
            lines.append(f'function_duration_seconds_count{{method="{name}"}} {calls}')
        return "\n".join(lines) + "\n"


# --- HTTP/1.1


HEADER_LIMIT = 65_536
MOST_CONNECTIONS = 4096
SLOW_SECONDS = 30.0
IDLE_SECONDS = 75.0
REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found",
    408: "Request Timeout", 413: "Content Too Large", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
OK_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def _protocol_class():
    """Made here, so that the supervisor imports neither asyncio nor the parser."""
    import asyncio

    import httptools

    class Connection(asyncio.Protocol):
        """One client. Requests that come before the last one is answered wait in order."""

        __slots__ = (
            "_broken", "_head_bytes", "_head_only", "_keep", "_ready", "_ready_event", "body", "body_bytes", "fd",
            "headers", "is_busy", "last", "parser", "pending", "target", "transport", "worker",
        )  # fmt: skip

        def __init__(self, worker):
            self.worker = worker
            self.transport = None
            self.parser = httptools.HttpRequestParser(self)
            self.pending = []
            self.is_busy = False
            self.last = time.monotonic()  # when the last byte of a request came, or an answer went
            self._broken = False
            self._head_bytes = 0
            self._head_only = False
            self._keep = True
            self._ready = True  # the transport's buffer has room
            self._ready_event = None
            self.headers = None

        def connection_made(self, transport):
            self.transport = transport
            self.fd = transport.get_extra_info("socket").fileno()
            if len(self.worker.connections) >= MOST_CONNECTIONS:
                self._keep = False
                self.respond(503, (("retry-after", "1"),), TEXT_TYPE, b"too many connections\n")
                return
            self.worker.connections.add(self)

        def connection_lost(self, error):
            self.transport = None
            self.worker.connections.discard(self)
            if self._ready_event is not None:
                self._ready_event.set()

        def pause_writing(self):
            self._ready = False
            self._ready_event = asyncio.Event()

        def resume_writing(self):
            self._ready = True
            self._ready_event.set()

        def data_received(self, data):
            if self._broken:
                return
            self.last = time.monotonic()
            if self.headers is None or self.body is None:
                self._head_bytes += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self.refuse(400, b"no protocol to upgrade to\n")
            except httptools.HttpParserError as error:
                self.refuse(400, f"no HTTP: {error}\n".encode())
            else:
                if self.body is None and self.headers is not None and self._head_bytes > HEADER_LIMIT:
                    self.refuse(431, b"the header is too large\n")

        # the parser's side

        def on_message_begin(self):
            self.headers = {}
            self.body = None
            self.body_bytes = 0
            self.target = b""

        def on_url(self, url):
            self.target += url

        def on_header(self, name, value):
            name = name.decode("latin-1").lower()
            value = value.decode("latin-1")
            if name in self.headers:
                value = f"{self.headers[name]}, {value}"
            self.headers[name] = value

        def on_headers_complete(self):
            self._head_bytes = 0
            self.body = b""
            headers = self.headers
            length = headers.get("content-length")
            if length is not None:
                if "transfer-encoding" in headers:
                    self.refuse(400, b"content-length and transfer-encoding\n")
                elif not length.isdigit() or int(length) > self.worker.settings.body_limit_bytes:
                    self.refuse(413, b"the body is too large\n")
            if len(self.target) + sum(len(n) + len(v) for n, v in headers.items()) > HEADER_LIMIT:
                self.refuse(431, b"the header is too large\n")
            if headers.get("expect", "").lower() == "100-continue" and not self._broken and not self.is_busy:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        def on_body(self, data):
            if self._broken:
                return
            self.body_bytes += len(data)
            if self.body_bytes > self.worker.settings.body_limit_bytes:
                self.refuse(413, b"the body is too large\n")
            elif not self.body:
                self.body = data
            elif isinstance(self.body, list):
                self.body.append(data)
            else:
                self.body = [self.body, data]

        def on_message_complete(self):
            if self._broken:
                return
            body = self.body
            if isinstance(body, list):
                body = b"".join(body)
            method = self.parser.get_method().decode("latin-1")
            request = Request(method, self.target.decode("latin-1"), self.headers, body)
            keep = self.parser.should_keep_alive()
            self.headers = None
            if self.is_busy:
                self.pending.append((request, keep))
                self.transport.pause_reading()
                return
            self.begin(request, keep)

        # ours

        def begin(self, request, keep):
            self.is_busy = True
            self._keep = keep and not self.worker.stopping
            method = request.method
            self._head_only = method == "HEAD"
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
                self.is_busy = False
                return
            if status == 200 and not headers and self._keep and content_type == JSON_TYPE and not self._head_only:
                transport.write(OK_JSON % (len(body), body))
            else:
                head = self.head(status, headers, content_type)
                if status not in (204, 304):
                    head += b"content-length: %d\r\n" % len(body)
                transport.write(head + b"\r\n" + (b"" if self._head_only or status in (204, 304) else body))
            self.answered()

        def head(self, status, headers, content_type):
            lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\n"]
            names = set()
            for name, value in headers:
                if name in ("content-length", "transfer-encoding", "connection", "keep-alive"):
                    continue  # the connection's own
                names.add(name)
                lines.append(f"{name}: {value}\r\n")
            if content_type is not None and "content-type" not in names:
                lines.append(f"content-type: {content_type}\r\n")
            if not self._keep:
                lines.append("connection: close\r\n")
            return "".join(lines).encode("utf-8")

        def answered(self):
            self.is_busy = False
            self.last = time.monotonic()
            if not self._keep:
                self.transport.close()
            elif self.pending:
                request, keep = self.pending.pop(0)
                if not self.pending:
                    self.transport.resume_reading()
                self.worker.loop.call_soon(self.begin_next, request, keep)
                self.is_busy = True

        def begin_next(self, request, keep):
            if self.transport is not None:
                self.begin(request, keep)

        def begin_stream(self, status, headers, content_type):
            if self.transport is None:
                raise ConnectionError("the client is gone")
            self.transport.write(self.head(status, headers, content_type) + b"transfer-encoding: chunked\r\n\r\n")

        async def send_part(self, part):
            if isinstance(part, str):
                part = part.encode()
            elif isinstance(part, (dict, list)):
                part = dumps(part) + b"\n"
            if not isinstance(part, (bytes, bytearray)):
                raise BadAnswer(f"a part that is a {type(part).__name__}")
            if not self._ready:
                async with asyncio.timeout(SLOW_SECONDS):
                    await self._ready_event.wait()
            if self.transport is None:
                raise ConnectionError("the client is gone")
            if part and not self._head_only:
                self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0)

        def end_stream(self):
            if self.transport is not None:
                if not self._head_only:
                    self.transport.write(b"0\r\n\r\n")
                self.answered()

        def refuse(self, status, text):
            """What cannot be understood ends the connection: where the next request begins is unknown."""
            if self._broken:
                return
            self._broken = True
            if self.is_busy:
                self.abort()
                return
            self._keep = False
            self.respond(status, (), TEXT_TYPE, text)

        def check(self, now):
            """Ends a connection that sends or reads too slowly, or that nobody uses."""
            if self.transport is None:
                return
            quiet = now - self.last
            if self.is_busy:
                return
            if self.transport.get_write_buffer_size() and quiet > SLOW_SECONDS:
                self.abort()
            elif self.headers is not None and quiet > SLOW_SECONDS:
                self.refuse(408, b"the request came too slowly\n")
            elif quiet > IDLE_SECONDS:
                self.close()

        def close(self):
            if self.transport is not None:
                self.transport.close()

        def abort(self):
            if self.transport is not None:
                self.transport.abort()

        def answer_from_outside(self, answer):
            """Called by the watching thread, when the loop will never turn again."""
            try:
                os.write(self.fd, answer)
            except OSError:
                return  # the client is gone

    return Connection


if __name__ == "__main__":
    sys.exit(main())
