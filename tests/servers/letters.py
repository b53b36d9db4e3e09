"""A dead letter with something in every part of it."""

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Attempt, HttpRequest
from trigger_sources.events import Event


def letter(
    position: str, failed_at: float = 1.0, function: str = "pay", data: bytes | None = b"\x00\xff"
) -> DeadLetter:
    return DeadLetter(
        trigger_uid="uid-1",
        namespace="default",
        trigger="orders",
        function=function,
        position=position,
        event=Event(id="1", source="/s", type="t", data=data, extensions={"partitionkey": "k"}),
        reason="PermanentAnswer",
        message="status 400",
        failed_at=failed_at,
        key=b"\xfe",
        partition="0",
        headers=(("h", b"\xfd"),),
        attempts=(Attempt(at=1.5, latency_seconds=0.1, status=400, answer_head=b"no"),),
        request=HttpRequest("PUT", "/a?b=c", (("x", "y"),), {"id": "7"}),
    )
