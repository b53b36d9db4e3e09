"""Tells a worker that hangs from one that gets no processor time, as on a starved machine or in a throttled pod.

While a call keeps the interpreter's lock, the watchdog's thread asks for the lock every 5 ms, so that the kernel counts
its turns. A thread without processor time has no turns.
"""

LATE_SECONDS = 1.0  # a supervisor that looks later than this after its last look was starved or stopped itself


class Silence:
    """Counts the time in which the watchdog's thread had turns, and did not beat."""

    def __init__(self, pid, heartbeat, now):
        self._pid = pid
        self._heartbeat = heartbeat
        self._looked = now
        self._beat = self._turns = None
        self._seconds = 0.0

    def seconds(self, now):
        """The seconds of silence at this look. Only those count in which the supervisor itself ran on time."""
        beat, elapsed = self._heartbeat.last()[0], now - self._looked
        self._looked = now
        if beat != self._beat:
            self._beat, self._turns, self._seconds = beat, None, 0.0
            return 0.0
        before, self._turns = self._turns, turns_of(self._pid, self._heartbeat.thread())
        if elapsed < LATE_SECONDS and (self._turns is None or before not in (None, self._turns)):
            self._seconds += elapsed
        return self._seconds


def turns_of(pid, thread):
    """How often the thread had the processor and gave it up to wait; None if the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches")), None)
    except OSError:
        return None
