"""Measures the rows with interleaved runs, and prints ratios: `python -m benchmarks [--rounds N] [ROW ...]`.

`python -m benchmarks instructions` counts instructions, and `python -m benchmarks budget` divides them by phase.
"""

import argparse
import os
import signal
import sys

from benchmarks import budget, instructions
from benchmarks.measure import compare
from benchmarks.rows import ROWS, machine

COMMANDS = {"instructions": instructions.main, "budget": budget.main}


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the processes that it started
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when none is named")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds; the ratio is the median of all rounds' (default 5)"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; known: {', '.join(ROWS)}")
    print(f"{machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    busy = os.getloadavg()[0]
    print(f"others keep {busy:.1f} cores busy: compare CPU, not rates\n" if busy > 0.5 else "")
    results = [compare(ROWS[name](), arguments.rounds) for name in arguments.rows or ROWS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
