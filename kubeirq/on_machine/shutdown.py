"""Stops the fabric in order on a signal, and tells systemd when it starts and stops."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from kubeirq.on_machine.fabric import Fabric


async def run_until_signal(fabric: Fabric, grace_seconds: float, notice: Callable[[str], None]) -> None:
    """Waits for SIGINT or SIGTERM, then drains. A second signal ends the draining at once."""
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await first.wait()
    notify_systemd("STOPPING=1")
    notice(stopping_text(fabric.held, grace_seconds))
    draining = asyncio.create_task(fabric.stop(grace_seconds))
    hurry = asyncio.create_task(second.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        fabric.hurry()
    await draining
    hurry.cancel()


def stopping_text(held: int, grace_seconds: float) -> str:
    if held == 0:
        return "stopping: no events in progress"
    events = "1 event" if held == 1 else f"{held} events"
    return f"stopping: {events} in progress, {grace_seconds:g} s to finish; a second Ctrl-C or SIGTERM stops at once"


def notify_systemd(message: str) -> None:
    """Sends the message if systemd expects one (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
