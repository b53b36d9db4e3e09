"""What the triggers of a cluster may call over HTTP: from the chart's values, and told where one may not. Pure."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

from trigger_sources.source import TriggerSource
from trigger_sources.transport.egress_policy import Reach


def reach_from(allow: Sequence[str], resolv_conf: str) -> Reach:
    """`allow`: host names, *.suffix and CIDRs. The cluster's domain is what pods search. Raises ValueError."""
    names: list[str] = []
    networks: list[IPv4Network | IPv6Network] = []
    for entry in allow:
        try:
            networks.append(ip_network(entry, strict=False))
        except ValueError:
            labels = entry.removeprefix("*.").removesuffix(".").split(".")
            named = all(label.replace("-", "").replace("_", "").isalnum() for label in labels)
            if not named or (len(labels) == 1 and not entry.startswith("*.")):
                raise ValueError(f"{entry!r}: a host as name.namespace.svc, *.suffix or a CIDR is needed") from None
            names.append(entry.lower())
    searched = [word for line in resolv_conf.splitlines() if line.startswith("search") for word in line.split()[1:]]
    domains = [word[len("svc.") :].rstrip(".") for word in searched if word.startswith("svc.")]
    return Reach(tuple(names), tuple(networks), *domains[:1])


def out_of_reach(reach: Reach | None, trigger: Mapping[str, Any], spec: TriggerSource) -> tuple[str, str] | None:
    """The rejection of a trigger that names what it may not call; names that DNS has to be asked for come later."""
    if reach is None:
        return None
    called = "spec.url" if "url" in trigger["spec"] else "spec.target.url"
    urls = {
        called: spec.target.url if spec.target is not None else None,
        "spec.reply.url": spec.reply.url if spec.reply is not None else None,
    }
    for place, url in urls.items():
        host = urlsplit(url).hostname if url is not None else None
        if host is not None and (problem := reach.refusal(host, trigger["metadata"]["namespace"])) is not None:
            return "OutOfReach", f"{place}: {problem}"
    return None
