"""The files that `kubeirq new` writes."""

import re
from collections.abc import Mapping
from pathlib import Path


class AlreadyExists(Exception):
    """A file of that name exists, and nothing was written."""


_FUNCTION = '''def handler(event, context):
    """Runs for every event. Its return value is the answer."""
    print("got", event["data"])
    return {{"hello": "{name}"}}
'''

_RESOURCES = """apiVersion: kubeirq.dev/v1
kind: Function
metadata: {{name: {name}}}
spec:
  source: {{path: {module}.py}}
---
apiVersion: kubeirq.dev/v1
kind: {kind}
metadata: {{name: {trigger}}}
spec:
  function: {name}
{fields}
"""

_KINDS = {
    "http": ("HTTPTrigger", "requests", "  path: /{name}"),
    "cron": ("CronTrigger", "ticks", '  schedule: "*/10 * * * * *"      # six fields: every ten seconds'),
    "kafka": ("KafkaTrigger", "records", "  topics: [{name}]"),
    "nats": ("NATSTrigger", "messages", "  subject: {name}"),
}

_SOURCE = '''"""Events of {name}."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from trigger_sources import Context, Delivery, Event, Outcome, TriggerSource


class {kind}(TriggerSource):
    """Calls a function at an interval. Replace this with your source of events."""

    every_seconds: float = 1.0

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        context.report(connected=True)
        number = int(await context.state.get("settled") or 0)
        while not context.stopping.is_set():
            number += 1

            async def settle(outcome: Outcome, number: int = number) -> None:
                """Acknowledge at your source here. The fabric awaits this once, after the event is settled."""
                if outcome.final:
                    await context.state.put("settled", str(number).encode())

            event = Event(str(number), "/{name}", "{name}.event", b"{{}}", "application/json")
            yield [Delivery(event, settle, position=str(number))]
            await asyncio.sleep(min(1.0, self.every_seconds))
'''

_PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
dependencies = ["kubeirq"]

[project.entry-points."kubeirq.trigger_sources"]
{kind} = "{module}:{kind}"

[tool.hatch.build.targets.wheel]
include = ["{module}.py"]
"""


def function_files(name: str, kind: str) -> Mapping[str, str]:
    """A handler and its manifest, with a trigger of that kind."""
    _check_name(name)
    kind_of_trigger, events, fields = _KINDS[kind]
    module = name.replace("-", "_")
    resources = _RESOURCES.format(
        name=name, trigger=f"{name}-{events}", module=module, kind=kind_of_trigger, fields=fields.format(name=name)
    )
    return {f"{module}.py": _FUNCTION.format(name=name), f"{name}.yaml": resources}


def source_files(name: str) -> Mapping[str, str]:
    """A plugin in one file, and the project file that installs it."""
    _check_name(name)
    module = name.replace("-", "_")
    kind = "".join(part.capitalize() for part in name.split("-")) + "Trigger"
    return {
        f"{name}/{module}.py": _SOURCE.format(name=name, kind=kind),
        f"{name}/pyproject.toml": _PROJECT.format(name=name, module=module, kind=kind),
    }


def write(files: Mapping[str, str]) -> list[Path]:
    """Writes all files, or none if one exists. Raises AlreadyExists."""
    for name in files:
        if Path(name).exists():
            raise AlreadyExists(
                f"{name} already exists; nothing was written. Choose another name, or move the file away"
            )
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    return [Path(name) for name in files]


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ValueError(
            f"{name!r} is not a valid name; use lower-case letters, digits and -, with a letter first, at most 63"
        )
