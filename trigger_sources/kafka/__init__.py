"""Kafka: the source, its dead letters, and replies to topics."""

from trigger_sources.kafka.trigger import KafkaTrigger

__all__ = ["KafkaTrigger"]
