"""The callers of a function: a NetworkPolicy closes its port to everyone else. Pure.

NetworkPolicies add up: whoever wants other callers makes another one for the same pods.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from controllers.functions.status import FUNCTION_LABEL, PORT

API_VERSION, KIND = "networking.k8s.io/v1", "NetworkPolicy"
_LAST_PORT = 65_535

Peer = Mapping[str, Any]  # as in `from` of a NetworkPolicy


def callers_from(text: str, name: str) -> tuple[Peer, ...] | None:
    """The peers in this JSON text of the environment variable `name`. None without a text. Raises ValueError."""
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(peer, dict) for peer in found):
        raise ValueError(f"{name}: must be a list of peers, as in a NetworkPolicy")
    return tuple(found)


def policy_that_closes(metadata: Mapping[str, Any], function: str, callers: Sequence[Peer]) -> dict[str, Any]:
    """Lets only these callers reach the function's port. The ports of containers that a podTemplate adds stay open."""
    others = [
        {"port": 1, "endPort": PORT - 1, "protocol": "TCP"},
        {"port": PORT + 1, "endPort": _LAST_PORT, "protocol": "TCP"},
        {"port": 1, "endPort": _LAST_PORT, "protocol": "UDP"},
    ]
    return _policy(metadata, function, [_to_function(callers), {"ports": others}])


def policy_that_opens(metadata: Mapping[str, Any], function: str, callers: Sequence[Peer]) -> dict[str, Any]:
    """Lets these callers reach the function's port beside the others; everyone if there are none."""
    return _policy(metadata, function, [_to_function(callers)])


def _to_function(callers: Sequence[Peer]) -> dict[str, Any]:
    peers = {"from": list(callers)} if callers else {}
    return {"ports": [{"port": PORT, "protocol": "TCP"}], **peers}


def _policy(metadata: Mapping[str, Any], function: str, rules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    selector = {"matchLabels": {FUNCTION_LABEL: function}}
    spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": list(rules)}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
