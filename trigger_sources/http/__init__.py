"""The HTTP source: requests through the fabric's own gateway."""

from trigger_sources.http.source import HTTPTrigger

__all__ = ["HTTPTrigger"]
