"""Finds that a definition is older than this version: the API server drops the fields of a status that it lacks."""

import logging
from collections.abc import Mapping
from typing import Any

from controllers.cluster.differences import contains

log = logging.getLogger(__name__)


class LostFields:
    """Logs each kind whose definition drops fields once, and again if a definition with these fields came between."""

    def __init__(self) -> None:
        self._told: dict[str, list[str]] = {}  # by kind: the fields

    def look(self, kind: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """Whether `found`, which the server made of the status `wanted`, lacks something of it."""
        lost = sorted(name for name, value in wanted.items() if not contains(found, {name: value}))
        if not lost and any(name in wanted for name in self._told.get(kind, ())):
            del self._told[kind]
        if lost and kind not in self._told:
            self._told[kind] = lost
            problem = "the definition is older than this version of kubeirq; upgrade it: kubeirq crds prints it"
            log.warning("status loses fields", extra={"kind": kind, "fields": lost, "problem": problem})
        return bool(lost)
