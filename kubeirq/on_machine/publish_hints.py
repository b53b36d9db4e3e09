"""What `kubeirq dev` prints first: the addresses, and for each trigger a command to paste that sends it an event."""

from shlex import quote

from kubeirq.on_machine.fabric import Fabric
from trigger_sources.dispatch.flows import TriggerResource

_EXAMPLE = '{"hello": "world"}'


def hints(fabric: Fabric) -> list[str]:
    functions, triggers = _counted(len(fabric.functions), "function"), _counted(len(fabric.triggers), "trigger")
    lines = [f"kubeirq runs {functions} and {triggers}; Ctrl-C ends it"]
    lines.append(f"  http   {fabric.http_address}")
    lines += [f"  {kind:<6} {broker.address}" for kind, broker in sorted(fabric.brokers.items())]
    lines.append(f"  state  {fabric.state}/")
    for trigger in fabric.triggers.values():
        lines.append(f"  {trigger.kind} {trigger.name}: {hint(trigger, fabric)}")
    return lines


def hint(trigger: TriggerResource, fabric: Fabric) -> str:
    """A command line that publishes to this trigger, or what it waits for."""
    spec, fields = trigger.spec, type(trigger.spec).model_fields
    data = quote(trigger.example or _EXAMPLE)
    if "topics" in fields:
        brokers = ",".join(spec.addresses.get("kafka") or fabric.host.defaults.get("kafka", ()))
        topics = getattr(spec, "topics", None) or [getattr(spec, "pattern", None) or getattr(spec, "topic_pattern", "")]
        return f"echo {data} | kcat -P -b {brokers} -t {quote(str(topics[0]))}"
    if "subject" in fields:
        servers = ",".join(spec.addresses.get("nats") or fabric.host.defaults.get("nats", ()))
        return f"nats --server {servers} pub {quote(str(getattr(spec, 'subject', '')))} {data}"
    if "methods" in fields:
        method = (list(getattr(spec, "methods", ())) or ["POST"])[0]
        path = getattr(spec, "path", None) or f"/{trigger.name}"
        how = "" if method == "POST" else f"-X {method} "
        header = "-H 'content-type: application/json'"
        return f"curl {how}{fabric.http_address}{path} {header} -d {data}"
    if "schedule" in fields:
        return f"runs at {getattr(spec, 'schedule', None) or getattr(spec, 'at', '')}"
    return "its events come from its source"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
