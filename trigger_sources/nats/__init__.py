"""NATS: the source for JetStream and core subjects, its dead letters, and replies to subjects."""

from trigger_sources.nats.trigger import NATSTrigger

__all__ = ["NATSTrigger"]
