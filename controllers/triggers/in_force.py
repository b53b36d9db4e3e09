"""Decides whether a trigger's spec is in force on every replica that callers can reach. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controllers.cluster.conditions import Condition
from controllers.triggers.served import Served

BEHIND, SILENT = "ReplicaBehind", "ReplicaSilent"
_MOST_NAMED = 3  # replicas in a message


@dataclass
class Peer:
    """Another replica, as this one knows it. Its last answer stays known."""

    name: str
    is_ready: bool  # the Services send requests to it
    takes_requests: bool = False  # it says so itself, which is known before the Services are
    has_answered: bool = False
    silence: str = ""  # why it does not answer, and since when; empty while it answers
    served: dict[str, Served] = field(default_factory=dict)  # by the trigger's uid

    @property
    def counts(self) -> bool:
        """Whether callers can reach it."""
        return self.is_ready or (self.takes_requests and not self.silence)


@dataclass(frozen=True)
class Verdict:
    """`ready` takes the place of this replica's own Ready. None: the others agree with it."""

    is_in_force: bool
    ready: Condition | None


IN_FORCE = Verdict(True, None)


def verdict(
    uid: str, generation: int, peers: Sequence[Peer] | str, *, runs_everywhere: bool, is_confirmed: bool
) -> Verdict:
    """The word of the other replicas about a trigger whose generation this replica runs.

    `peers`: the other replicas, or why they are not known. `is_confirmed`: the status says already that this generation
    is in force. While a replica is silent, no other generation becomes Ready. A trigger that is Ready stays so: what
    the replica said before is still true, and the cluster sends no requests to a replica that hangs.
    """
    if isinstance(peers, str):
        return IN_FORCE if is_confirmed or not runs_everywhere else _not_in_force(SILENT, peers)
    behind, silent, problems = [], [], []
    for peer in (found for found in peers if found.counts):
        served = peer.served.get(uid)
        if served is not None and served.generation >= generation:
            if served.status != "True":
                problems.append((peer, served))
        elif served is None and not runs_everywhere:
            continue
        elif peer.has_answered and not peer.silence:
            behind.append(f"replica {peer.name} {_what_it_serves(served, generation)}")
        elif not is_confirmed:
            silent.append(f"replica {peer.name} {peer.silence or 'has not said yet what it serves'}")
    if behind:
        return _not_in_force(BEHIND, _text_of(behind))
    if silent:
        return _not_in_force(SILENT, _text_of(silent))
    if runs_everywhere and problems:
        peer, worst = min(problems, key=lambda found: (found[1].status != "False", found[0].name))
        text = f"replica {peer.name}: {worst.message}"
        return Verdict(True, Condition("Ready", worst.status, worst.reason, text))
    return IN_FORCE


def is_confirmed(status: Mapping[str, Any], generation: int) -> bool:
    """Whether this status says that the generation is in force and Ready."""
    ready = next((found for found in status.get("conditions", ()) if found["type"] == "Ready"), None)
    return (
        ready is not None
        and ready["status"] == "True"
        and status.get("observedGeneration") == ready.get("observedGeneration") == generation
    )


@dataclass(frozen=True)
class Listed:
    """A replica in the EndpointSlices of a Service. Its place is its address and port; some versions have no port."""

    name: str
    place: tuple[str, int | None]
    is_ready: bool


def replicas_in(slices: Iterable[Mapping[str, Any]], port: str) -> Iterator[Listed]:
    """The replicas, without those that end. `port` is the name of the port."""
    for found in slices:
        number = next((named.get("port") for named in found.get("ports") or () if named.get("name") == port), None)
        for endpoint in found.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("terminating") is not True:
                name = (endpoint.get("targetRef") or {}).get("name") or endpoint["addresses"][0]
                yield Listed(name, (endpoint["addresses"][0], number), conditions.get("ready") is not False)


def _not_in_force(reason: str, message: str) -> Verdict:
    return Verdict(False, Condition("Ready", "Unknown", reason, message))


def _what_it_serves(served: Served | None, generation: int) -> str:
    if served is None:
        return "does not serve it yet"
    return f"serves generation {served.generation} of the spec, and {generation} is wanted"


def _text_of(found: Sequence[str]) -> str:
    more = len(found) - _MOST_NAMED
    return "; ".join([*found[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])
