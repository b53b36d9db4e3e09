"""The state of version 0.1.0 after a crash, as `tests/recorded/record.py` recorded it."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from servers.kafka import create_topic

RECORDED = Path(__file__).parents[1] / "recorded"


@dataclass(frozen=True)
class Recorded:
    """The extracted state. `facts` has what version 0.1.0 said of it, and the contents of an Apache Kafka."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def app(self) -> Path:
        return self.folder / "app"

    def calls(self) -> list[dict[str, Any]]:
        """Those of the function since then."""
        path = self.folder / "ledger"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def mend(self) -> None:
        """From now on the function answers 200."""
        (self.folder / "mended").touch()

    def write_app(self, kafka: str) -> None:
        self.app.mkdir()
        for file in (RECORDED / "app").iterdir():
            text = file.read_text().replace("<FOLDER>", str(self.folder)).replace("<BROKER>", kafka)
            (self.app / file.name).write_text(text)


def extract(folder: Path) -> Recorded:
    with tarfile.open(RECORDED / "version_0_1_0.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return Recorded(folder, json.loads((folder / "state" / "facts.json").read_text()))


async def fill_kafka(bootstrap: str, recorded: Recorded) -> None:
    """Topics, dead letters and the commits of groups, as version 0.1.0 left them."""
    found = recorded.facts["kafka"]
    for topic, records in found["records"].items():
        settings = {"cleanup.policy": "compact"} if topic.endswith("dead-letters") else {}
        await create_topic(bootstrap, topic, 1, **settings)
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for key, value, headers in records:
                pairs = [(name, bytes.fromhex(text)) for name, text in headers]
                data = None if value is None else bytes.fromhex(value)
                await producer.send_and_wait(topic, data, key=bytes.fromhex(key), headers=pairs)
    for group, places in found["groups"].items():
        offsets = {TopicPartition(topic, number): OffsetAndMetadata(at, text) for topic, number, at, text in places}
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
        consumer.assign(list(offsets))
        async with consumer:
            await consumer.commit(offsets)
