"""Decides who may use the admin API: asks the API server for the user of a token, and for that user's rights.

The rights are those to virtual subresources of triggers, as `kafkatriggers/deadletters`. No object has them; a Role
grants them, and a SubjectAccessReview finds them.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from controllers.cluster.api import Object, plural_of

_USER_SECONDS = 30.0  # a token that is revoked works for this time at most
_MAX_USERS = 1_000
_TRIGGER = re.compile(r"/v1/triggers/(?P<namespace>[^/]+)/(?P<kind>[^/]+)/(?P<name>[^/]+)/(?P<action>.+)")

# the verb and the subresource of each request about one trigger
_NEEDED: Mapping[tuple[str, str], tuple[str, str]] = {
    ("GET", "dead-letters"): ("get", "deadletters"),
    ("GET", "dead-letters/show"): ("get", "deadletters"),
    ("POST", "dead-letters/redrive"): ("update", "deadletters"),
    ("POST", "dead-letters/purge"): ("delete", "deadletters"),
    ("POST", "resume"): ("update", "flows"),
    ("POST", "fire"): ("update", "flows"),
    ("GET", "lanes"): ("get", "lanes"),
    ("GET", "filtered"): ("get", "deadletters"),  # it has values of an event, as a dead letter has
    ("POST", "lanes/release"): ("update", "lanes"),
    ("POST", "lanes/skip"): ("delete", "lanes"),
}


class Reviewer(Protocol):
    """The part of `Api` that this needs."""

    async def create(self, wanted: Mapping[str, Any]) -> Object:
        """Creates an object, and returns it as the server completed it."""


@dataclass(frozen=True, slots=True)
class Need:
    """The right that a request needs. Empty `namespace` and `name` stand for all."""

    verb: str
    kind: str
    subresource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        where = f"in namespace {self.namespace}" if self.namespace else "in all namespaces"
        return f"{self.verb} for {plural_of(self.kind)}/{self.subresource} {where}"


@dataclass(frozen=True, slots=True)
class User:
    """A user as the API server knows it."""

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: Mapping[str, list[str]]


def need_of(method: str, path: str) -> Need | None:
    """The right for a request about one trigger. None for a request that nobody may make. Pure.

    The parts of the path must be plain names, so that the API server and the admin API read the same.
    """
    found = _TRIGGER.fullmatch(path)
    needed = None if found is None else _NEEDED.get((method, found["action"]))
    if found is None or needed is None or not all(_is_name(found[part]) for part in ("namespace", "kind", "name")):
        return None
    return Need(needed[0], found["kind"], needed[1], found["namespace"], found["name"])


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?", text) is not None


class Rights:
    """Asks the API server. Lives in one event loop."""

    def __init__(self, api: Reviewer, groups: Mapping[str, str]) -> None:
        """`groups` has the API group of each kind of trigger."""
        self._api = api
        self._groups = groups
        self._users: dict[str, tuple[float, User]] = {}

    async def user_of(self, token: str) -> User | None:
        """The user with this token. None: the API server does not accept it."""
        now = time.monotonic()
        known = self._users.get(token)
        if known is not None and known[0] > now:
            return known[1]
        answer = await self._api.create(
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": token}}
        )
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            return None
        found = status.get("user") or {}
        user = User(
            found.get("username", ""),
            found.get("uid", ""),
            tuple(found.get("groups") or ()),
            dict(found.get("extra") or {}),
        )
        if len(self._users) >= _MAX_USERS:
            self._users.clear()
        self._users[token] = (now + _USER_SECONDS, user)
        return user

    async def has(self, user: User, need: Need) -> bool:
        """Whether the user has the right now."""
        if need.kind not in self._groups:
            return False
        attributes = {
            "group": self._groups[need.kind],
            "version": "*",
            "resource": plural_of(need.kind),
            "subresource": need.subresource,
            "verb": need.verb,
            "namespace": need.namespace,
            "name": need.name,
        }
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": dict(user.extra),
            "resourceAttributes": {name: value for name, value in attributes.items() if value},
        }
        answer = await self._api.create(
            {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec}
        )
        status = answer.get("status") or {}
        return bool(status.get("allowed")) and not status.get("denied")
