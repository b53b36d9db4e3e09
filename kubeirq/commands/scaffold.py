"""The beginnings that `kubeirq new` writes."""

import re
from collections.abc import Mapping
from pathlib import Path


class Exists(Exception):
    """A file that would be overwritten."""


_FUNCTION = '''def handler(event, context):
    """Called for every event; what it returns is its answer."""
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
    """Calls a function every so many seconds: replace this by where your events come from."""

    every_seconds: float = 1.0

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        context.report(connected=True)
        number = int(await context.state.get("settled") or 0)
        while not context.stopping.is_set():
            number += 1

            async def settle(outcome: Outcome, number: int = number) -> None:
                """Acknowledge at your source here: it is awaited once, after the event is settled."""
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
    """A handler and its resources, with a trigger of that kind."""
    _check(name)
    kind_of_trigger, events, fields = _KINDS[kind]
    module = name.replace("-", "_")
    resources = _RESOURCES.format(
        name=name, trigger=f"{name}-{events}", module=module, kind=kind_of_trigger, fields=fields.format(name=name)
    )
    return {f"{module}.py": _FUNCTION.format(name=name), f"{name}.yaml": resources}


def source_files(name: str) -> Mapping[str, str]:
    """A plugin in one file, and what installs it."""
    _check(name)
    module = name.replace("-", "_")
    kind = "".join(part.capitalize() for part in name.split("-")) + "Trigger"
    return {
        f"{name}/{module}.py": _SOURCE.format(name=name, kind=kind),
        f"{name}/pyproject.toml": _PROJECT.format(name=name, module=module, kind=kind),
    }


def write(files: Mapping[str, str]) -> list[Path]:
    """Writes them all, or none where one exists. Raises Exists."""
    for name in files:
        if Path(name).exists():
            raise Exists(f"{name} exists already; nothing was written")
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    return [Path(name) for name in files]


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ValueError(f"{name!r} is no name: lower-case letters, digits and -, a letter first")
