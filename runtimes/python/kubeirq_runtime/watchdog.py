"""The watchdog: a thread that does the loop's urgent work while a handler keeps the loop from turning."""

import contextlib
import os
import select
import socket
import sys
import threading
import time

from .busy import AWAY_SECONDS, BusyNotes
from .calls import CLEANUP_SECONDS, TOO_LONG
from .failure import left_of, overdue_of, place_in_stack
from .heartbeat import REPLACE_ME

PERIOD_SECONDS = 0.05
MOST_HELD = 512

_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"%bcontent-length: %d\r\n\r\n%b"
)


class Watchdog:
    """Ends overdue calls, and answers probes, when the loop cannot.

    To end a call, it answers 408 and ends the process. On new connections it answers /healthz, so that a slow handler
    does not look like a dead process.
    """

    def __init__(self, worker, heartbeat, listening):
        self._worker = worker
        self._heartbeat = heartbeat
        self._listening = listening
        self._held = []  # clients that connected while the loop was away
        self._busy_notes = BusyNotes(worker, self._say)

    def start(self):
        thread = threading.Thread(target=self._run, daemon=True, name="watch")
        thread.start()
        self._heartbeat.beats_from(thread.native_id)

    def _run(self):
        worker = self._worker
        while True:
            now = time.monotonic()
            self._heartbeat.beat(now)
            if worker.is_ready and now - worker.turned < AWAY_SECONDS:
                self._hand_over()
                time.sleep(PERIOD_SECONDS)
            else:
                self._stand_in()
            self._note_caller_that_left()
            now = time.monotonic()
            self._busy_notes.look(now)
            # as long as the loop turns, it ends the calls in tasks and threads itself
            overdue = [
                call
                for call in worker.calls.under_way.copy().values()
                if now >= call.deadline and (call.is_inline or now - worker.turned > CLEANUP_SECONDS)
            ]
            if overdue:
                self._end(overdue)

    def _note_caller_that_left(self):
        """Says where a handler is that keeps the loop from turning, once its caller has gone: others wait behind it."""
        for call in self._worker.calls.under_way.copy().values():
            if call.is_inline and call.is_from_fabric and not call.caller_left and _is_gone(call.connection):
                call.caller_left = True
                self._say(left_of(call, place_in_stack(self._main_frame(), self._worker.settings.code_path)))

    def _main_frame(self):
        return sys._current_frames().get(threading.main_thread().ident)

    def _say(self, text):
        # not sys.stderr: the handler may hold its lock for ever, or nobody may read the log
        with contextlib.suppress(OSError, ValueError):  # the handler's code may have closed it
            if select.select([], [2], [], 0)[1]:
                os.write(2, f"runtime: {text}\n".encode(errors="replace"))

    def _end(self, overdue):
        """Answers these calls and ends the process, unless the calls have just ended."""
        under_way = self._worker.calls.under_way
        ended = [call for call in overdue if under_way.pop(id(call), None) is not None]
        if not ended:
            return
        for call in ended:
            if not call.answer_began:
                call.connection.answer_from_outside(self._overdue_answer(call))
        names = ", ".join(str(call.event_id) for call in ended)
        seconds = self._worker.settings.timeout_seconds
        frame = self._main_frame() if any(call.is_inline for call in ended) else None
        self._say(f"event {names}: {overdue_of(seconds, frame, self._worker.settings.code_path)}: replaced")
        os._exit(REPLACE_ME)

    def _overdue_answer(self, call):
        """The answer 408, with the line of the handler that runs for too long."""
        frame = self._main_frame() if call.is_inline else None
        seconds = self._worker.settings.timeout_seconds
        lines = "".join(
            f"{name}: {value}\r\n" for name, value in self._worker.calls.reason_header(call, overdue_of, seconds, frame)
        )
        return _TIMED_OUT % (lines.encode(), len(TOO_LONG), TOO_LONG)

    def _hand_over(self):
        while self._held:
            self._worker.loop.call_soon_threadsafe(self._worker.adopt, self._held.pop(0))

    def _stand_in(self):
        """Accepts connections for one period, and answers the probes among them."""
        poll = select.poll()
        end = time.monotonic() + PERIOD_SECONDS
        try:
            if len(self._held) < MOST_HELD:
                poll.register(self._listening, select.POLLIN)
            for _ in range(MOST_HELD - len(self._held)):
                if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                    break
                client, _ = self._listening.accept()
                client.setblocking(False)
                self._held.append(client)
        except BlockingIOError:
            pass  # the loop was quicker
        except (OSError, ValueError):
            time.sleep(PERIOD_SECONDS)  # the process stops: its listening socket is closed
        self._held = [client for client in self._held if not self._answer_probe(client)]
        time.sleep(max(0.0, end - time.monotonic()))

    def _answer_probe(self, client):
        """Answers and closes the client if it asks for /healthz or is gone; returns whether it did."""
        try:
            if not client.recv(14, socket.MSG_PEEK).startswith((b"GET /healthz ", b"GET /healthz?")):
                return False
            client.recv(65_536)
            client.send(self._health())
            client.close()
        except BlockingIOError:
            return False
        except OSError:
            client.close()
        return True

    def _health(self):
        """The same answer as that of the loop, whole."""
        worker = self._worker
        up = worker.is_ready and not worker.is_stopping
        status, text = ("200 OK", "OK") if up else ("503 Service Unavailable", "not ready")
        lines = [
            f"HTTP/1.1 {status}",
            "content-type: text/plain; charset=utf-8",
            *(f"{name}: {value}" for name, value in worker.health_headers()),
            "connection: close",
            f"content-length: {len(text)}",
        ]
        return "\r\n".join([*lines, "", text]).encode()


def _is_gone(connection):
    """Whether the client has closed the connection, or its sending side, which the fabric never does alone."""
    if connection.fd < 0:
        return True
    poll = select.poll()
    poll.register(connection.fd, select.POLLRDHUP)
    return bool(poll.poll(0))
