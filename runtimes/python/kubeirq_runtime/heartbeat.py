"""The signs by which the supervisor knows how its worker is: a heartbeat in shared memory, and exit codes."""

import mmap
import struct

REPLACE_ME = 70  # the worker's exit code when a call does not end
NOT_STARTED = 3  # the exit code when the function's code or its startup hook fails

_FORMAT = struct.Struct("d?")  # when the watchdog last ran, and whether the function ever was ready
_BEAT = struct.Struct("d")  # its first part
_READY_AT = _BEAT.size
_THREAD = struct.Struct("l")
_THREAD_AT = 16


class Heartbeat:
    """Made before the fork: the worker writes it, and the supervisor reads it.

    The worker's two threads write it. Each has a part of its own, so that neither overwrites the other's.
    """

    def __init__(self):
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def beat(self, now):
        _BEAT.pack_into(self._memory, 0, now)

    def beats_from(self, thread):
        """The number that the kernel has for the thread that beats."""
        _THREAD.pack_into(self._memory, _THREAD_AT, thread)

    def thread(self):
        return _THREAD.unpack_from(self._memory, _THREAD_AT)[0]

    def ready(self):
        """The function can be called from now on."""
        self._memory[_READY_AT] = True

    def last(self):
        """When it last beat on the monotonic clock, and whether the function ever was ready."""
        return _FORMAT.unpack_from(self._memory)

    def close(self):
        self._memory.close()
