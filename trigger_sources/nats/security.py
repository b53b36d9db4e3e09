"""The identity of a NATS client, and the authorities that it trusts."""

import ssl
import tempfile
from pathlib import Path
from typing import Any

import nats
from pydantic import Field, model_validator

from trigger_sources.context import Context
from trigger_sources.spec import SecretRef, Spec


class Tls(Spec):
    """TLS to the servers. The system's authorities are trusted unless `ca` names others."""

    ca: SecretRef | None = Field(None, description="The PEM certificates to trust; unset: the system's")
    certificate: SecretRef | None = Field(None, description="The client's PEM certificate; it goes with key")
    key: SecretRef | None = Field(None, description="The PEM key of that certificate")

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Security(Spec):
    """Absent: no authentication, and TLS if the address says so."""

    token: SecretRef | None = Field(None, description="A token")
    username: str | None = Field(None, description="A user; it goes with password")
    password: SecretRef | None = Field(None, description="That user's password")
    creds: SecretRef | None = Field(None, description="The text of a .creds file")
    nkey_seed: SecretRef | None = Field(None, description="The seed of an NKey")
    tls: Tls | None = Field(None, description="TLS to the servers; {} trusts the system's authorities")


async def client_arguments(security: Security | None, context: Context) -> dict[str, Any]:
    """Keyword arguments for the client, with the secrets as they are now. Raises MissingSecret."""
    found: dict[str, Any] = {}
    if security is None:
        return found
    if security.token is not None:
        found["token"] = await context.secret(security.token)
    if security.username is not None:
        found["user"] = security.username
    if security.password is not None:
        found["password"] = await context.secret(security.password)
    if security.nkey_seed is not None:
        found["nkeys_seed_str"] = await context.secret(security.nkey_seed)
    if security.creds is not None:
        found["user_credentials"] = nats.aio.client.RawCredentials(await context.secret(security.creds))
    if security.tls is not None:
        tls = security.tls
        found["tls"] = ssl.create_default_context(cadata=await context.secret(tls.ca) if tls.ca else None)
        if tls.certificate is not None and tls.key is not None:
            # The standard library reads certificates from files only
            with tempfile.TemporaryDirectory() as folder:
                chain = Path(folder) / "chain.pem"
                chain.touch(mode=0o600)
                chain.write_text(f"{await context.secret(tls.certificate)}\n{await context.secret(tls.key)}\n")
                found["tls"].load_cert_chain(chain)
    return found
