"""Calls of the handler: from a whole request to its answer, within the concurrency and the time-out."""

import asyncio
import time
from collections import deque

from .answer import TEXT_TYPE, BadAnswer, answer_from
from .connection import ClientGone
from .event import BadRequest, event_from
from .failure import HEADER, failure_of, left_of, overdue_of, place_in_coroutine
from .heartbeat import REPLACE_ME
from .log import Failures, say

MOST_WAITING = 1000  # requests beyond the concurrency
CLEANUP_SECONDS = 1.0  # for a handler that was cancelled
TOO_LONG = b"the handler took too long\n"

_END = object()  # of a stream


class Call:
    """One request that the handler works on."""

    __slots__ = (
        "answer_began", "caller_left", "connection", "deadline", "event_id", "future", "is_from_fabric", "is_inline",
        "method", "started", "tells_failure",
    )  # fmt: skip

    def __init__(self, connection, method, started, deadline):
        self.connection = connection
        self.method = method
        self.started = started
        self.deadline = deadline
        self.event_id = None
        self.is_from_fabric = False
        self.tells_failure = False  # the fabric calls, and keeps the reason from its own callers
        self.caller_left = False  # before the handler ended; the log says so
        self.is_inline = False  # the handler runs in the loop's own thread at this moment
        self.answer_began = False  # the head of a stream is sent, so the status cannot change any more
        self.future = None  # it ends when the handler does, unless the handler runs inline


class Calls:
    """The calls that are under way, and the requests that wait for one of them to end.

    The loop and the watchdog may both want to answer a call: the one that removes it from `under_way` answers.
    """

    def __init__(self, worker, handler):
        settings = worker.settings
        self.under_way = {}  # by id
        self._stuck = 0  # running calls that are past their time and did not end when they were cancelled
        self.context = {
            "function-name": settings.function_name,
            "timeout": settings.timeout_seconds,
            "runtime": settings.runtime,
            "memory-limit": settings.memory_limit,
            "state": {},
        }
        self._worker = worker
        self._loop = worker.loop
        self._handler = handler
        self._timeout_seconds = settings.timeout_seconds
        self._kubeless = settings.kubeless
        self._tells_failures = settings.tells_failures
        self._code_path = settings.code_path
        self._failures = Failures()
        self._running = 0
        self._waiting = deque()  # (connection, request), oldest first

    @property
    def running(self):
        """How many handlers run, those included that are past their time and do not end."""
        return self._running

    @property
    def waiting(self):
        return len(self._waiting)

    def accept(self, connection, request):
        """Starts the call of a whole request now, or when there is room."""
        if self._running < self._handler.concurrency and not self._waiting:
            self._start(connection, request)
        elif len(self._waiting) >= MOST_WAITING:
            connection.respond(503, (("retry-after", "1"),), TEXT_TYPE, b"too many requests wait\n")
        else:
            self._waiting.append((connection, request))

    def are_stuck(self):
        """No handler that may run at once ends, so no request can start."""
        return self._stuck >= self._handler.concurrency

    def refuse_waiting(self):
        while self._waiting:
            connection, _ = self._waiting.popleft()
            connection.respond(503, (("retry-after", "1"),), TEXT_TYPE, b"the function is being replaced\n")

    def end_overdue(self, now):
        """Ends the calls that are past their time. This is for calls in tasks and threads: the loop turns."""
        for call in [call for call in self.under_way.values() if now >= call.deadline]:
            self._time_out(call)

    def note_callers_that_left(self):
        """Says which handlers in tasks and threads run on for nobody. The watchdog does so for one that runs inline."""
        for call in self.under_way.copy().values():
            connection = call.connection
            is_gone = call.is_from_fabric and (connection.transport is None or connection.client_closed)
            if is_gone and not (call.caller_left or call.answer_began):
                call.caller_left = True
                is_task = isinstance(call.future, asyncio.Task)
                place = place_in_coroutine(call.future.get_coro(), self._code_path) if is_task else ""
                say(left_of(call, place))

    # --- one call

    def _start(self, connection, request):
        now = time.monotonic()
        timeout = self._timeout_seconds
        call = Call(connection, request.method, now, now + timeout)
        self._running += 1
        try:
            event = event_from(request, self._kubeless)
        except Exception as error:
            self._fail(call, error)
            return
        call.event_id = event["event-id"]
        context = self.context.copy()
        attempt = request._headers.get("kubeirq-attempt")
        context["attempt"] = 1
        if attempt is not None:
            call.is_from_fabric = True
            call.tells_failure = self._tells_failures
            if attempt.isdecimal() and len(attempt) < 10:
                context["attempt"] = int(attempt)
        context["deadline"] = time.time() + timeout
        self.under_way[id(call)] = call
        handler = self._handler
        if handler.is_inline:
            try:
                result = self._run_inline(call, handler.function, event, context)
            except BaseException as error:
                self._fail(call, error)
            else:
                self._finish(call, result)
        elif handler.threads is not None:
            self._when_done(call, handler.in_thread(handler.function, event, context), self._finish)
        else:
            self._start_task(call, event, context)

    def _start_task(self, call, event, context):
        handler = self._handler
        try:
            result = handler.function(event, context)
        except Exception as error:
            self.under_way.pop(id(call), None)
            self._fail(call, error)
            return
        if hasattr(result, "__anext__"):
            self.under_way.pop(id(call), None)
            self._finish(call, result)
        else:
            self._when_done(call, handler.task(result), self._finish)

    def _run_inline(self, call, function, *arguments):
        """Runs the handler's code in this thread, watched by the watchdog. Removes the call from `under_way`."""
        call.is_inline = True
        try:
            return function(*arguments)
        finally:
            if self.under_way.pop(id(call), None) is None:
                time.sleep(60)  # the watchdog has answered, and ends this process
            call.is_inline = False

    def _when_done(self, call, future, settle):
        """Calls `settle` with the result when the handler ends, unless the call timed out before."""
        call.future = future

        def done(future):
            error = RuntimeError("the handler was cancelled") if future.cancelled() else future.exception()
            if self.under_way.pop(id(call), None) is None:
                self._free_stuck()  # the caller has its 408
            elif error is not None:
                self._fail(call, error)
            else:
                settle(call, future.result())

        if future.done():
            done(future)
        else:
            future.add_done_callback(done)

    def _time_out(self, call):
        """Answers 408 and cancels the handler. A coroutine can be cancelled, a thread cannot."""
        if self.under_way.pop(id(call), None) is None:
            return
        self._stuck += 1  # until the handler ends
        self._count(call, True)
        say(f"event {call.event_id}: the handler took more than {self._timeout_seconds:g} s")
        if self.are_stuck():
            self._worker.leave_to_the_next()
            call.connection.keep_alive = False
        if call.answer_began:
            call.connection.abort()
        else:
            reason = self.reason_header(call, overdue_of, self._timeout_seconds, None)
            call.connection.respond(408, reason, TEXT_TYPE, TOO_LONG)
        if isinstance(call.future, asyncio.Task):
            call.future.cancel()
        self._loop.call_later(CLEANUP_SECONDS, self._replace_if_stuck)

    def _free_stuck(self):
        """A handler that timed out has ended after all."""
        were_stuck = self.are_stuck()
        self._running -= 1
        self._stuck -= 1
        if were_stuck and not self.are_stuck():
            self._worker.listen_again()
        self._start_oldest_soon()

    def _replace_if_stuck(self):
        if self.are_stuck() and not self._worker.ended.done():
            concurrency = self._handler.concurrency
            say(f"none of the {concurrency} handlers that may run at once ends: the process is replaced")
            self._worker.end(REPLACE_ME)

    def _finish(self, call, result):
        try:
            status, headers, content_type, body = answer_from(result, self._kubeless)
        except Exception as error:
            self._fail(call, error)
            return
        if isinstance(body, bytes):
            self._release(call, status >= 500)
            call.connection.respond(status, headers, content_type, body)
        else:
            self.under_way[id(call)] = call
            stream = self._stream(call, status, headers, content_type, body)
            self._when_done(call, self._handler.task(stream), self._finish_stream)

    def _fail(self, call, error):
        """Answers a call that raised or returned a bad answer. The traceback goes to the log only.

        The fabric gets the reason in a header, which it does not pass on.
        """
        status = getattr(error, "status", None)
        if isinstance(error, ClientGone):
            say(f"event {call.event_id}: {error}")
        elif isinstance(error, BadAnswer):
            say(f"event {call.event_id}: the handler returned {error}")
        elif not isinstance(error, BadRequest):
            self._failures.say(call.event_id, error, failure_of(error, self._code_path))
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            status = 500
        self._release(call, True)
        if call.answer_began or isinstance(error, ClientGone):
            call.connection.abort()
        else:
            text = f"{error}\n" if isinstance(error, BadRequest) else "the handler failed\n"
            reason = () if isinstance(error, BadRequest) else self.reason_header(call, failure_of, error)
            call.connection.respond(status, reason, TEXT_TYPE, text.encode(errors="replace"))

    def reason_header(self, call, reason_of, *about):
        """The header that says why the call failed, if the caller may know."""
        return ((HEADER, reason_of(*about, self._code_path)),) if call.tells_failure else ()

    def _release(self, call, failed):
        """The call has ended, so its place is free."""
        self._count(call, failed)
        self._running -= 1
        if self._waiting:
            self._start_oldest_soon()

    def _count(self, call, failed):
        self._worker.metrics.count(call.method, time.monotonic() - call.started, failed)

    # --- answers in parts

    async def _stream(self, call, status, headers, content_type, parts):
        """Sends the parts as chunks. A failure before the first part is answered like any other."""
        connection = call.connection
        try:
            part = await self._next_part(call, parts)
            connection.begin_stream(status, headers, content_type)
            call.answer_began = True
            while part is not _END:
                await connection.send_part(part)
                part = await self._next_part(call, parts)
        finally:
            if hasattr(parts, "aclose"):
                await parts.aclose()
            elif hasattr(parts, "close"):
                parts.close()

    async def _next_part(self, call, parts):
        if hasattr(parts, "__anext__"):
            try:
                return await parts.__anext__()
            except StopAsyncIteration:
                return _END
        if self._handler.threads is None:
            try:
                return self._run_inline(call, next, parts, _END)
            finally:
                self.under_way[id(call)] = call
        future = self._handler.in_thread(next, parts, _END)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])  # the thread is taken until then
            raise

    def _finish_stream(self, call, _):
        self._release(call, False)
        call.connection.end_stream()

    # --- requests that wait

    def _start_oldest_soon(self):
        """At the loop's next turn: to start it here would nest as deep as the queue is long."""
        if self._waiting:
            self._loop.call_soon(self._start_oldest)

    def _start_oldest(self):
        if self._waiting and self._running < self._handler.concurrency:
            connection, request = self._waiting.popleft()
            if connection.transport is not None:
                self._start(connection, request)
            self._start_oldest_soon()
