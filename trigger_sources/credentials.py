"""Digests of secrets: they tell whether a secret has changed, and tell nothing about its text."""

import hashlib
import secrets
from collections.abc import Iterable

from pydantic import BaseModel

from trigger_sources.context import Context
from trigger_sources.spec import secret_refs

_SALT = secrets.token_bytes(32)  # of this process: a digest that someone sees helps nobody to guess the text


def digest_of(texts: Iterable[str | None]) -> str:
    """Another digest for other texts, as long as this process lives. None: there is no such secret."""
    found = hashlib.blake2b(key=_SALT, digest_size=16)
    for text in texts:
        data = b"" if text is None else text.encode(errors="surrogatepass")
        found.update(b"-" if text is None else b"%d:" % len(data))
        found.update(data)
    return found.hexdigest()


async def identity_of(spec: BaseModel | None, context: Context) -> str:
    """The references and the content of all secrets of a spec, for the key of a shared connection.

    If a secret changes, the next user opens a connection with the new one, while others may still hold the old one.
    Raises MissingSecret.
    """
    if spec is None:
        return "none"
    return f"{spec!r}/{digest_of([await context.secret(found) for _, found in secret_refs(spec)])}"
