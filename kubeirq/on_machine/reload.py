"""Reloads the manifests of a running fabric: when a file changes, or on request."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubeirq.manifests.resources import InvalidManifests
from kubeirq.on_machine.desired_state import DesiredState, load_desired_state, starting_notes
from kubeirq.on_machine.fabric import Fabric, RefusedReload

log = logging.getLogger(__name__)

_WATCH_STEP_MILLISECONDS = 100
_WATCH_DEBOUNCE_MILLISECONDS = 400
_MAX_NAMED_FILES = 5


@dataclass(frozen=True)
class Reloader:
    """Loads the same paths again, and applies them to the fabric."""

    fabric: Fabric
    paths: Sequence[Path]
    secrets: Path | None
    grace_seconds: float
    notice: Callable[[str], None]

    async def on_change(self) -> None:
        """Reloads after each change of a file that the fabric uses."""
        from watchfiles import DefaultFilter, awatch  # `serve` does not need it

        folders = {path if path.is_dir() else path.absolute().parent for path in self.paths}
        if self.secrets is not None:
            folders.add(self.secrets)
        state = str(self.fabric.state.absolute())
        watched = DefaultFilter(ignore_paths=[state], ignore_dirs=(*DefaultFilter.ignore_dirs, ".kubeirq"))
        async for changes in awatch(
            *folders, watch_filter=watched, step=_WATCH_STEP_MILLISECONDS, debounce=_WATCH_DEBOUNCE_MILLISECONDS
        ):
            desired = self.fabric.desired
            changed = {Path(path) for _, path in changes if affects(Path(path), desired, self.paths, self.secrets)}
            if changed:  # not only logs and files that functions write
                names = sorted(path.name for path in changed)[:_MAX_NAMED_FILES]
                self.notice(f"changed: {', '.join(names)}")
                await self.reload()
                if self.fabric.refused_reload is None:
                    for note in starting_notes(self.paths, self.secrets):
                        self.notice(note)

    async def on_request(self, requested: asyncio.Event) -> None:
        """Reloads each time the event is set."""
        while True:
            await requested.wait()
            requested.clear()
            await self.reload()

    async def reload(self) -> None:
        """Applies the current files. If they have problems, reports them and changes nothing."""
        try:
            await self.fabric.apply(load_desired_state(self.paths, self.secrets), self.grace_seconds)
        except InvalidManifests as problems:
            self._refuse(problems.lines)
            self.notice("not reloaded; the version before still runs:")
            for line in problems.lines:
                self.notice("  " + line)
        except Exception as error:
            self._refuse([f"a fault of kubeirq: {type(error).__name__}: {error}; its log has more"])
            log.exception("not reloaded")
        else:
            self.fabric.refused_reload = None

    def _refuse(self, problems: Sequence[str]) -> None:
        self.fabric.refused_reload = RefusedReload(list(problems), time.time())


def affects(changed: Path, desired: DesiredState, paths: Sequence[Path], secrets: Path | None) -> bool:
    """Whether this file can change the desired state: a manifest, a secret, or a file that a function names. Pure."""
    changed = _whole(changed)
    if changed.suffix in (".yaml", ".yml") or changed in map(_whole, paths):
        return True
    named = [] if secrets is None else [_whole(secrets)]
    for function in desired.functions:
        source = function.spec.source
        function_paths = (source.path, *source.include, function.spec.dependencies_path)
        named += [_whole(function.base / path) for path in function_paths if path is not None]
    return any(changed == path or path in changed.parents for path in named)


def _whole(path: Path) -> Path:
    """The absolute path without `..`: changes are reported in the form in which the folder was given."""
    return Path(os.path.normpath(path.absolute()))
