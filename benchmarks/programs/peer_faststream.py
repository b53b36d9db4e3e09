"""A FastStream consumer that posts every message with aiohttp and acknowledges it after success.

Usage: peer_faststream.py kafka|nats ADDRESS NAME URL
"""

import asyncio
import sys
from typing import Any

import aiohttp
import uvloop


async def main() -> None:
    kind, address, name, url = sys.argv[1:]
    if kind == "kafka":
        from faststream import AckPolicy
        from faststream.kafka import KafkaBroker, KafkaMessage

        kind_of_message: Any = KafkaMessage
        broker = KafkaBroker(address, logger=None)
        subscribe = broker.subscriber(
            name, group_id=f"faststream-{name}", auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR,
            session_timeout_ms=6000,
        )  # fmt: skip
    else:
        from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub

        kind_of_message = NatsMessage
        broker = NatsBroker(address, logger=None)
        subscribe = broker.subscriber(
            name, stream=JStream(name, declare=False), durable=f"faststream-{name}", pull_sub=PullSub(batch_size=100)
        )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        @subscribe
        async def handle(message: kind_of_message) -> None:  # the documented way to get the raw bytes
            async with session.post(url, data=message.body, headers={"content-type": "application/json"}) as answer:
                await answer.read()
                assert answer.status < 300

        async with broker:
            await broker.start()
            await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
