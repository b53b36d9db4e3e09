"""Checks whether a trigger accepts a request's credentials. Pure."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trigger_sources.delivery import Answer
from trigger_sources.encoding.header_text import bytes_of_header
from trigger_sources.http.routes import refusal


@dataclass(frozen=True, slots=True)
class Credentials:
    """The accepted credentials, as digests: a comparison takes the same time whether or not they are similar."""

    digests: Sequence[bytes]
    challenges: Sequence[str]  # for WWW-Authenticate

    def admit(self, headers: Mapping[str, str]) -> Answer | None:
        """None if the Authorization header is accepted, else the caller's answer. It never tells the reason."""
        given = _digest_of_header(headers.get("authorization", ""))
        accepted = [hmac.compare_digest(given, digest) for digest in self.digests]
        if any(accepted):
            return None
        return refusal(
            401, "credentials are needed", *(("www-authenticate", challenge) for challenge in self.challenges)
        )


def credentials(users: Sequence[tuple[str, str]], tokens: Sequence[str]) -> Credentials:
    """Accepts these users by name and password, and these bearer tokens."""
    challenges = []
    if users:
        challenges.append('Basic realm="kubeirq", charset="UTF-8"')
    if tokens:
        challenges.append('Bearer realm="kubeirq"')
    digests = [_digest("basic", f"{name}:{password}".encode()) for name, password in users]
    digests += [_digest("bearer", token.encode()) for token in tokens]
    return Credentials(digests, challenges)


def users_of(text: str) -> list[tuple[str, str]]:
    """The users of a text with one `name:password` a line. Raises ValueError, without any part of the text."""
    users = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not (name and colon and password):
            raise ValueError(f"line {number}: name:password is needed")
        if password.startswith(("$apr1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "{SHA}")):
            raise ValueError(f"line {number}: a hashed password cannot be used; keep name:password in the Secret")
        users.append((name, password))
    if not users:
        raise ValueError("it has no line name:password")
    return users


def _digest_of_header(value: str) -> bytes:
    scheme, _, rest = value.partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return _digest("bearer", bytes_of_header(rest))
    if scheme.lower() == "basic":
        try:
            return _digest("basic", base64.b64decode(rest, validate=True))
        except (binascii.Error, ValueError):
            return b""
    return b""


def _digest(scheme: str, value: bytes) -> bytes:
    return hashlib.sha256(scheme.encode() + b"\0" + value).digest()
