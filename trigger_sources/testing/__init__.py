"""Tools for authors of sources: a stand-in for the fabric, and the contract of all sources as tests."""

from trigger_sources.testing.contract import Origin, SourceContract
from trigger_sources.testing.stand_in import MemoryState, StandInContext

__all__ = ["SourceContract", "Origin", "StandInContext", "MemoryState"]
