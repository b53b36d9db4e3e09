"""Usage: -m soak [SECONDS] [--seed NUMBER]: the default is half an hour, with a seed by chance."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from pathlib import Path

from soak.script import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="An operator's actions at random, under load.")
    parser.add_argument("seconds", nargs="?", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    chosen = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # clients meet brokers that are down
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    breaches = asyncio.run(soak(chosen.seconds, chosen.seed, folder, lambda line: print(line, flush=True)))
    print(f"\n{len(breaches)} breaches; logs in {folder}" if breaches else "\neverything holds")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
