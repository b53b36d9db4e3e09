"""The worker: takes connections, lets the function answer them, and drains at its end."""

import asyncio
import select
import time

from .busy import HEADER, busy_text
from .calls import Calls
from .connection import Connection
from .handler import Handler
from .log import say
from .metrics import Metrics
from .settings import BACKLOG

TURN_SECONDS = 0.1
TURNS_PER_CHECK = 5  # of the connections
QUIET_SECONDS = 1.0  # without a new request: then every client knows that this process stops
MOST_LATE_SECONDS = 10.0  # that clients have to learn it
NEW_SECONDS = 5.0  # a new connection brings its first request within this time


class Worker:
    """The parts of one worker, and its state, which its connections, its calls and the watchdog share."""

    def __init__(self, settings, loop, listening, last_end):
        self.settings = settings
        self.loop = loop
        self.is_ready = False
        self.is_stopping = False
        self.last_end = last_end  # when and how the worker before this one ended, or None
        self.ended = loop.create_future()  # its result is the exit code
        self.turned = time.monotonic()  # when the loop last turned
        self.connections = set()
        self.body_bytes = 0  # of all requests that came and are not answered
        self.metrics = Metrics()
        self.handler = Handler(settings, loop)
        self.calls = Calls(self, self.handler)
        self._listening = listening
        self._server = None  # while the loop takes connections
        self._tasks = set()

    def health_headers(self):
        """Of the answer to /healthz: what the fabric asks of the process."""
        found = [("kubeirq-concurrency", str(self.handler.concurrency))]
        if self.last_end is not None:
            at, how = self.last_end
            found.append(("kubeirq-worker-ended", f"{time.monotonic() - at:.3f} {how}"))
        if busy := busy_text(self):
            found.append((HEADER, busy))
        return found

    async def run_hook(self, name):
        await self.handler.run_hook(name, dict(self.calls.context))

    # --- connections

    async def listen(self):
        """Takes connections from the socket that the supervisor keeps open."""
        if self._server is None and not self.ended.done():
            socket = self._listening.dup()
            self._server = await self.loop.create_server(self._connection, sock=socket, backlog=BACKLOG)

    def listen_again(self):
        self._in_background(self.listen())

    def leave_to_the_next(self):
        """Takes no more connections: they wait in the kernel until this process recovers or the next one starts."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def adopt(self, client):
        """Serves a connection that the watchdog accepted."""
        self._in_background(self.loop.connect_accepted_socket(self._connection, client))

    def _connection(self):
        return Connection(self)

    def _in_background(self, awaitable):
        task = self.loop.create_task(awaitable)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def sweep(self):
        """Ends calls that are past their time and clients that are too slow, and shows that the loop turns."""
        turns = 0
        while True:
            now = self.turned = time.monotonic()
            self.calls.end_overdue(now)
            turns += 1
            if turns % TURNS_PER_CHECK == 0:
                for connection in list(self.connections):
                    connection.check(now)
                self.calls.note_callers_that_left()
            await asyncio.sleep(TURN_SECONDS)

    # --- the end

    def end(self, status):
        if not self.ended.done():
            self.ended.set_result(status)

    async def drain(self, grace_seconds, *, is_last):
        """Answers the requests that came, and returns when it has sent all answers.

        It returns earlier when the grace is over, and cuts the connections off. `is_last`: no other process goes on to
        accept connections, so this one accepts them until no client sends requests any more.
        """
        self.is_stopping = True
        deadline = self.loop.time() + grace_seconds
        if is_last:
            await self._take_late_requests(min(MOST_LATE_SECONDS, grace_seconds / 2))
        for _ in range(3):
            await asyncio.sleep(0.02)  # turns of the loop, which take the connections that the kernel has accepted
        self.leave_to_the_next()
        self._listening.close()
        if self.calls.are_stuck():
            self.calls.refuse_waiting()
        while (self.connections or self._tasks or self.calls.under_way) and self.loop.time() < deadline:
            self._close_idle()
            await asyncio.sleep(0.01)
        if self.connections:
            say(f"{len(self.connections)} connections are cut off: the grace of {grace_seconds:g} s is over")
            for connection in list(self.connections):
                connection.abort()
        await asyncio.sleep(0)

    async def _take_late_requests(self, most_seconds):
        """Goes on until no new request came for a moment. Clients learn late that an endpoint is gone.

        Idle connections stay open meanwhile: a request may be on its way. Each answer closes its connection.
        """
        now = quiet_since = self.loop.time()
        last = now + most_seconds
        seen = self._requests_seen()
        while now < last and now - quiet_since < QUIET_SECONDS and not self.calls.are_stuck():
            await asyncio.sleep(0.02)
            now = self.loop.time()
            if seen != (seen := self._requests_seen()):
                quiet_since = now

    def _requests_seen(self):
        return self.metrics.calls() + len(self.calls.under_way)

    def _close_idle(self):
        """Closes the connections without a request, not even one that the kernel has and the loop has not read."""
        before = time.monotonic() - NEW_SECONDS
        idle = {connection.fd: connection for connection in self.connections if connection.is_idle(before)}
        poll = select.poll()
        for number in idle:
            poll.register(number, select.POLLIN)
        for number, _ in poll.poll(0):
            del idle[number]
        for connection in idle.values():
            connection.close()
