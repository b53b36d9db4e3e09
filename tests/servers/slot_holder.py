"""A process that has its share of slots, and writes down at every moment which. Its time is the machine's.

Usage: -m servers.slot_holder IDENTITY COUNT DURATION_SECONDS DRAIN_SECONDS FILE, with KUBECONFIG in the environment.
"""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from controllers.cluster.api import api
from controllers.cluster.leases import SharedLeases

NAMESPACE, NAME = "default", "work"
_MOMENT_SECONDS = 0.02


async def main(identity: str, count: str, duration: str, drain: str, file: str) -> None:
    with Path(file).open("a", buffering=1) as written:  # noqa: ASYNC230  a line is nothing to wait for

        async def let_go(slot: int) -> None:
            await asyncio.sleep(float(drain))
            written.write(json.dumps({"at": time.monotonic(), "let_go": slot}) + "\n")

        async with api() as client:
            leases = SharedLeases(
                client, namespace=NAMESPACE, name=NAME, identity=identity, drain=let_go, on_change=lambda _: None,
                count=int(count), duration_seconds=float(duration),
            )  # fmt: skip
            running = asyncio.create_task(leases.run())
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
            while not running.done():
                at = time.monotonic()
                terms = {slot: leases.term(slot) for slot in leases.held}
                written.write(json.dumps({"at": at, "terms": {k: v for k, v in terms.items() if v is not None}}) + "\n")
                await asyncio.sleep(_MOMENT_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
