"""The policy for HTTP calls of triggers, for tenants that share a fabric with more rights in the network. Pure.

It applies twice: to a host's text when a trigger is admitted, and to the addresses before a connection is made.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_WAY_OUT = "call a Service of the trigger's own namespace or a public address, or add it to reach.allow in the chart"
_EMBEDS_IPV4 = (ip_network("64:ff9b::/96"), ip_network("::/96"))  # NAT64, IPv4-compatible addresses
_AZURE = ip_address("168.63.129.16")  # Azure's metadata and other services, at an address that looks public
_SITE_LOCAL = ip_network("fec0::/10")


@dataclass(frozen=True, slots=True)
class Reach:
    """Allows Services of the trigger's own namespace, public addresses, and the given names, *.suffix and networks."""

    names: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    cluster_domain: str = "cluster.local"

    def absolute(self, host: str, namespace: str) -> str:
        """The absolute name of a host, with a dot at its end, or its address.

        A single label is a Service of the namespace.
        """
        name = _normal(host)
        if (literal := literal_of(name)) is not None:
            return str(literal)
        labels = name.split(".")
        if host.endswith("."):
            return f"{name}."
        if len(labels) == 1:
            return f"{name}.{namespace}.svc.{self.cluster_domain}."
        if labels[1:] == [namespace]:
            return f"{name}.svc.{self.cluster_domain}."
        return f"{name}.{self.cluster_domain}." if labels[-1] == "svc" else f"{name}."

    def allows(self, host: str, namespace: str) -> bool:
        """Whether the name itself is allowed, with any address."""
        name = self.absolute(host, namespace)
        allowed = [self.absolute(entry, "") for entry in self.names]
        return any(name.endswith(entry[1:]) if entry.startswith("*.") else name == entry for entry in allowed)

    def refusal(self, host: str, namespace: str, addresses: Sequence[str] = ()) -> str | None:
        """The reason why a trigger of that namespace may not call the host, which resolves to these addresses; None if
        it may.

        Without addresses, only the host's text counts. Forms of an address that only the C library reads (127.1,
        0x7f000001) count as that address.
        """
        name = self.absolute(host, namespace)
        if self.allows(name, namespace):
            return None
        service = name.removesuffix(f".svc.{self.cluster_domain}.")
        owner = service.rpartition(".")[2] if service != name else None
        if owner not in (None, namespace):
            return f"{host!r}: a Service of another namespace, {owner!r}; {_WAY_OUT}"
        if owner is not None and service == "kubernetes.default":
            return f"{host!r}: the API server; {_WAY_OUT}"
        literal = literal_of(name)
        for address in [literal] if literal is not None else map(ip_address, addresses):
            kind = _forbidden_kind(_plain(address), of_service=owner is not None)
            if kind is not None and not any(_plain(address) in network for network in self.networks):
                shown = f"{host!r}" if str(address) == host else f"{host!r} is {address}"
                return f"{shown}: {kind}; {_WAY_OUT}"
        return None


def literal_of(host: str) -> Address | None:
    """The address that a host's text is, in any form; None for a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeEncodeError):
            return None


def _normal(host: str) -> str:
    host = host.strip("[]").removesuffix(".").lower()
    try:
        return host if host.isascii() else host.encode("idna").decode().lower()
    except UnicodeError:
        return host


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address) or int(address) <= 1:  # :: and ::1
        return address
    if any(address in network for network in _EMBEDS_IPV4):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _forbidden_kind(address: Address, *, of_service: bool) -> str | None:
    """The reason to refuse an address, if any. `of_service`: it is a Service's of the namespace, and may be private."""
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local or address == _AZURE:
        return "a link-local or metadata address"
    if address.is_unspecified or address.is_multicast:
        return "an address that is not a single host's"
    return "a private address" if not of_service and (not address.is_global or address in _SITE_LOCAL) else None
