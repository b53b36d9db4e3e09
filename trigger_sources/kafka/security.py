"""The identity of a Kafka client, and the authorities that it trusts."""

import ssl
import tempfile
from pathlib import Path
from typing import Any, Literal

from aiokafka.abc import AbstractTokenProvider
from pydantic import Field, model_validator

from trigger_sources.context import Context, SourceError
from trigger_sources.spec import SecretRef, Spec


class Tls(Spec):
    """TLS to the brokers. The system's authorities are trusted unless `ca` names others."""

    ca: SecretRef | None = Field(None, description="The PEM certificates to trust; unset: the system's")
    certificate: SecretRef | None = Field(None, description="The client's PEM certificate; it goes with key")
    key: SecretRef | None = Field(None, description="The PEM key of that certificate")
    verify_hostname: bool = Field(True, description="Whether a broker's certificate must name its host")

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Sasl(Spec):
    """A user name and its proof."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        description="The SASL mechanism"
    )
    username: str | None = Field(None, description="The user; every mechanism but OAUTHBEARER needs it")
    password: SecretRef | None = Field(None, description="The password; every mechanism but OAUTHBEARER needs it")
    token: SecretRef | None = Field(None, description="The token; OAUTHBEARER needs it")

    @model_validator(mode="after")
    def _has_proof(self) -> "Sasl":
        if self.mechanism == "OAUTHBEARER":
            if self.token is None:
                raise ValueError("token is needed for OAUTHBEARER")
        elif self.username is None or self.password is None:
            raise ValueError(f"username and password are needed for {self.mechanism}")
        return self


class Security(Spec):
    """Absent: plaintext, without authentication."""

    tls: Tls | None = Field(None, description="TLS to the brokers; {} trusts the system's authorities")
    sasl: Sasl | None = Field(None, description="The login")


async def client_arguments(security: Security | None, context: Context) -> dict[str, Any]:
    """Keyword arguments for aiokafka's clients. Raises MissingSecret."""
    if security is None:
        return {}
    tls, sasl = security.tls, security.sasl
    names = {
        (True, True): "SASL_SSL",
        (True, False): "SSL",
        (False, True): "SASL_PLAINTEXT",
        (False, False): "PLAINTEXT",
    }
    found: dict[str, Any] = {"security_protocol": names[tls is not None, sasl is not None]}
    if tls is not None:
        authorities = await context.secret(tls.ca) if tls.ca else None
        found["ssl_context"] = ssl.create_default_context(cadata=authorities)
        found["ssl_context"].check_hostname = tls.verify_hostname
        if tls.certificate is not None and tls.key is not None:
            _load_chain(found["ssl_context"], await context.secret(tls.certificate), await context.secret(tls.key))
    if sasl is not None:
        found["sasl_mechanism"] = sasl.mechanism
        if sasl.token is not None:
            await context.secret(sasl.token)  # so that a missing Secret shows at once
            found["sasl_oauth_token_provider"] = _Token(context, sasl.token)
        if sasl.username is not None and sasl.password is not None:
            found["sasl_plain_username"] = sasl.username
            found["sasl_plain_password"] = await context.secret(sasl.password)
    return found


class _Token(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the Secret for each connection, because tokens expire and the Secret is renewed."""

    def __init__(self, context: Context, reference: SecretRef) -> None:
        self._context = context
        self._reference = reference

    async def token(self) -> str:
        try:
            return await self._context.secret(self._reference)
        except SourceError as error:
            # After an error that the client does not expect, it never connects again
            raise OSError(str(error)) from error


def _load_chain(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    # The standard library reads certificates from files only
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_text(f"{certificate}\n{key}\n")
        tls.load_cert_chain(chain)
