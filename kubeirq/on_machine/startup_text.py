"""The text at the start of `kubeirq dev`: addresses, and for each trigger a command line that sends it an event."""

import re
from shlex import quote

from kubeirq.on_machine.fabric import Fabric
from kubeirq.output.formats import counted
from trigger_sources.dispatch.flows import TriggerResource

_EXAMPLE = '{"hello": "world"}'
# By whether the trigger takes tokens. The shell fills them in: a Secret is not for a terminal
_CREDENTIALS = {True: '-H "authorization: Bearer $TOKEN"', False: '-u "$USER_AND_PASSWORD"'}


def startup_lines(fabric: Fabric) -> list[str]:
    functions, triggers = counted(len(fabric.functions), "function"), counted(len(fabric.triggers), "trigger")
    lines = [f"kubeirq runs {functions} and {triggers}; Ctrl-C stops"]
    lines.append(f"  http   {fabric.http_address}")
    lines += [f"  {kind:<6} {broker.address}" for kind, broker in sorted(fabric.brokers.items())]
    lines.append(f"  state  {fabric.state}/")
    for trigger in fabric.triggers.values():
        lines.append(f"  {trigger.kind} {trigger.name}: {example_command(trigger, fabric)}")
    return lines


def example_command(trigger: TriggerResource, fabric: Fabric) -> str:
    """A command line that sends the trigger an event, or its schedule."""
    spec, fields = trigger.spec, type(trigger.spec).model_fields
    data = quote(trigger.example or _EXAMPLE)
    if "topics" in fields:
        brokers = ",".join(spec.addresses.get("kafka") or fabric.host.defaults.get("kafka", ()))
        topics = getattr(spec, "topics", None)
        if not brokers:
            return "waits for a broker: the fabric's own did not start"
        if not topics:
            return f"records of the topics that match {getattr(spec, 'topic_pattern', '')}, from {brokers}"
        return f"echo {data} | kcat -P -b {brokers} -t {quote(str(topics[0]))}"
    if "subject" in fields:
        servers = ",".join(spec.addresses.get("nats") or fabric.host.defaults.get("nats", ()))
        if not servers:
            return "waits for a server: the fabric's own did not start"
        return f"nats --server {servers} pub {quote(example_subject(str(getattr(spec, 'subject', ''))))} {data}"
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
        return f"runs at {getattr(spec, 'schedule', None) or getattr(spec, 'at', '')}"
    return "its source sends its events"


def example_subject(subject: str) -> str:
    """A subject that matches: a word for each wildcard."""
    return ".".join("example" if token in ("*", ">") else token for token in subject.split("."))


def example_path(path: str) -> str:
    """A path that matches: the name of each parameter as its value."""
    return re.sub(r"\{(\w+)(?:\.\.\.)?\}", r"\1", path)
