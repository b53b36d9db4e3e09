"""The text at the start of `kubeirq dev`: addresses, and for each trigger a command line that sends it an event."""

import re
from pathlib import Path
from shlex import quote

from kubeirq.on_machine.fabric import Fabric
from kubeirq.output.formats import counted
from trigger_sources.dispatch.flows import TriggerResource

DEFAULT_STATE = Path(".kubeirq")
_MOST_TRIGGERS = 20
_EXAMPLE = '{"hello": "world"}'
# By whether the trigger takes tokens. The shell fills them in: a Secret is not for a terminal
_CREDENTIALS = {True: '-H "authorization: Bearer $TOKEN"', False: '-u "$USER_AND_PASSWORD"'}


def startup_lines(fabric: Fabric) -> list[str]:
    functions, triggers = counted(len(fabric.functions), "function"), counted(len(fabric.triggers), "trigger")
    lines = [f"kubeirq runs {functions} and {triggers}; Ctrl-C stops"]
    lines.append(f"  http   {fabric.http_address}")
    lines += [f"  {kind:<6} {broker.address}" for kind, broker in sorted(fabric.brokers.items())]
    lines.append(f"  state  {fabric.state}/")
    shown = list(fabric.triggers.values())[:_MOST_TRIGGERS]
    lines += [f"  {trigger.kind} {trigger.name}: {example_command(trigger, fabric)}" for trigger in shown]
    if (more := len(fabric.triggers) - len(shown)) > 0:
        lines.append(f"  … and {counted(more, 'trigger')} more: kubeirq get{_state_option(fabric.state)}")
    return lines


def example_command(trigger: TriggerResource, fabric: Fabric) -> str:
    """A command line that sends the trigger an event, with what everybody has: kubeirq itself, and curl for HTTP."""
    spec, fields = trigger.spec, type(trigger.spec).model_fields
    data = quote(trigger.example or _EXAMPLE)
    publish = f"kubeirq publish {quote(trigger.name)}{_state_option(fabric.state)}"
    if "topics" in fields:
        brokers = ",".join(spec.addresses.get("kafka") or fabric.host.defaults.get("kafka", ()))
        if not brokers:
            return "waits for a broker: the fabric's own did not start"
        if not getattr(spec, "topics", None):
            return f"records of the topics that match {getattr(spec, 'topic_pattern', '')}, from {brokers}"
        return f"records from {brokers}" if getattr(spec, "security", None) else f"{publish} -d {data}"
    if "subject" in fields:
        servers = ",".join(spec.addresses.get("nats") or fabric.host.defaults.get("nats", ()))
        if not servers:
            return "waits for a server: the fabric's own did not start"
        if getattr(spec, "security", None):
            return f"messages from {servers}"
        subject = str(getattr(spec, "subject", ""))
        example = example_subject(subject)
        return f"{publish} {'' if example == subject else f'--subject {quote(example)} '}-d {data}"
    if "methods" in fields:
        method = (list(getattr(spec, "methods", ())) or ["POST"])[0]
        path = example_path(getattr(spec, "path", None) or f"/{trigger.name}")
        how = "" if method == "POST" else f"-X {method} "
        header = "-H 'content-type: application/json'"
        if host := getattr(spec, "host", None):
            header = f"-H 'host: {host}' {header}"
        if (auth := getattr(spec, "auth", None)) is not None:
            header = f"{_CREDENTIALS[auth.bearer is not None]} {header}"
        return f"curl {how}{fabric.http_address}{path} {header} -d {data}"
    if "schedule" in fields:
        schedule = getattr(spec, "schedule", None) or getattr(spec, "at", "")
        return f"runs at {schedule}; now: kubeirq fire {quote(trigger.name)}{_state_option(fabric.state)}"
    return "its source sends its events"


def _state_option(state: Path) -> str:
    return "" if state == DEFAULT_STATE else f" --state {quote(str(state))}"


def example_subject(subject: str) -> str:
    """A subject that matches: a word for each wildcard."""
    return ".".join("example" if token in ("*", ">") else token for token in subject.split("."))


def example_path(path: str) -> str:
    """A path that matches: the name of each parameter as its value."""
    return re.sub(r"\{(\w+)(?:\.\.\.)?\}", r"\1", path)
