"""A Kafka trigger on a real broker, with the test in the place of the fabric."""

from typing import Any

from servers.kafka import Kafka

from trigger_sources.kafka.trigger import KafkaTrigger


def trigger(kafka: Kafka, topic: str, **spec: Any) -> KafkaTrigger:
    """A trigger of that topic, in a group that no other test uses."""
    fields = {"function": "f", "brokers": [kafka.bootstrap], "topics": [topic], "group": f"g-{topic}", **spec}
    return KafkaTrigger.model_validate(fields)
