"""The egress policy of a cluster, from the chart's values, and the rejection of triggers that violate it. Pure."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

from trigger_sources.source import TriggerSource
from trigger_sources.transport.egress_policy import Reach


def egress_policy_from(allow: Sequence[str], resolv_conf: str) -> Reach:
    """The egress policy that allows these host names, *.suffix and CIDRs. Raises ValueError.

    The cluster's domain comes from the search list of the pod's resolv.conf.
    """
    names: list[str] = []
    networks: list[IPv4Network | IPv6Network] = []
    for entry in allow:
        try:
            networks.append(ip_network(entry, strict=False))
        except ValueError:
            labels = entry.removeprefix("*.").removesuffix(".").split(".")
            is_name = all(label.replace("-", "").replace("_", "").isalnum() for label in labels)
            if not is_name or (len(labels) == 1 and not entry.startswith("*.")):
                raise ValueError(f"{entry!r}: write a host like name.namespace.svc, *.suffix or a CIDR") from None
            names.append(entry.lower())
    searched = [word for line in resolv_conf.splitlines() if line.startswith("search") for word in line.split()[1:]]
    domains = [word[len("svc.") :].rstrip(".") for word in searched if word.startswith("svc.")]
    return Reach(tuple(names), tuple(networks), *domains[:1])


def egress_rejection(policy: Reach | None, trigger: Mapping[str, Any], spec: TriggerSource) -> tuple[str, str] | None:
    """The rejection of a trigger whose URLs violate the policy. The resolver checks the names that need DNS."""
    if policy is None:
        return None
    called = "spec.url" if "url" in trigger["spec"] else "spec.target.url"
    urls = {
        called: spec.target.url if spec.target is not None else None,
        "spec.reply.url": spec.reply.url if spec.reply is not None else None,
    }
    for place, url in urls.items():
        host = urlsplit(url).hostname if url is not None else None
        if host is not None and (problem := policy.refusal(host, trigger["metadata"]["namespace"])) is not None:
            return "OutOfReach", f"{place}: {problem}"
    return None
