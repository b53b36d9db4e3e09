"""The runtime's own counts, named as Kubeless named them."""

import mmap
import time

BOUNDS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Metrics:
    """Calls, failures and durations by method."""

    def __init__(self):
        self._methods = {}  # [calls, failures, seconds, calls per bucket] by method
        self._started = time.time()

    def count(self, method, seconds, failed):
        found = self._methods.get(method)
        if found is None:
            if method not in METHODS:
                method = "OTHER"
            found = self._methods.setdefault(method, [0, 0, 0.0, [0] * (len(BOUNDS_SECONDS) + 1)])
        found[0] += 1
        found[1] += failed
        found[2] += seconds
        index = 0
        for bound in BOUNDS_SECONDS:
            if seconds <= bound:
                break
            index += 1
        found[3][index] += 1

    def calls(self):
        return sum(found[0] for found in self._methods.values())

    def text(self):
        """Prometheus' text format."""
        import resource  # here: a function's own module may have this name

        used = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm") as pages:
            resident = int(pages.read().split()[1]) * mmap.PAGESIZE
        lines = ["# HELP function_calls_total Calls of the handler.", "# TYPE function_calls_total counter"]
        lines += [f'function_calls_total{{method="{name}"}} {found[0]}' for name, found in self._methods.items()]
        lines.append(
            "# HELP function_failures_total Calls that were answered with 500 or more, raised, or took too long."
        )
        lines.append("# TYPE function_failures_total counter")
        lines += [f'function_failures_total{{method="{name}"}} {found[1]}' for name, found in self._methods.items()]
        lines.append("# HELP function_duration_seconds From the handler's start to its answer.")
        lines.append("# TYPE function_duration_seconds histogram")
        for name, found in self._methods.items():
            lines += _histogram(name, *found)
        lines += [
            "# TYPE process_cpu_seconds_total counter",
            f"process_cpu_seconds_total {used.ru_utime + used.ru_stime}",
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {resident}",
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self._started}",
        ]
        return "\n".join(lines) + "\n"


def _histogram(method, calls, _failures, seconds, buckets):
    lines = []
    total = 0
    for bound, number in zip((*map(str, BOUNDS_SECONDS), "+Inf"), buckets):
        total += number
        lines.append(f'function_duration_seconds_bucket{{method="{method}",le="{bound}"}} {total}')
    lines.append(f'function_duration_seconds_sum{{method="{method}"}} {seconds}')
    lines.append(f'function_duration_seconds_count{{method="{method}"}} {calls}')
    return lines
