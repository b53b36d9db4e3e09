"""Chooses the ports of the embedded brokers and remembers them, so that clients find a broker at the same address."""

import asyncio
import logging
from pathlib import Path

import orjson

from kubeirq.on_machine.child_processes import free_port

log = logging.getLogger(__name__)

_ATTEMPTS = 40
_ATTEMPT_SECONDS = 0.05


async def choose_port(state: Path, kind: str, usual: int) -> int:
    """The port of the last run if it is free, else the usual one, else any free port."""
    remembered = _remembered(state).get(kind)
    if remembered is not None:
        # The broker of a fabric that was just killed needs a moment to end
        for _ in range(_ATTEMPTS):
            if free_port([remembered]) == remembered:
                return remembered
            await asyncio.sleep(_ATTEMPT_SECONDS)
    port = free_port([usual])
    if remembered is not None:
        log.warning("port of the last run is taken", extra={"broker": kind, "port": remembered, "instead": port})
    _remember(state, kind, port)
    return port


def _remembered(state: Path) -> dict[str, int]:
    try:
        found = orjson.loads((state / "ports.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {kind: port for kind, port in found.items() if isinstance(port, int)} if isinstance(found, dict) else {}


def _remember(state: Path, kind: str, port: int) -> None:
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / "ports.json.tmp"
    temporary.write_bytes(orjson.dumps({**_remembered(state), kind: port}))
    temporary.replace(state / "ports.json")
