"""Says with which user and Secrets a trigger logs in, for a person who reads that a server refuses it. Pure."""

from typing import Any

from trigger_sources.source import TriggerSource
from trigger_sources.spec import secret_refs


def login_of(trigger: TriggerSource) -> str:
    """For instance `user 'mailer', Secret 'mailer'`. Empty if the trigger's kind has no `security`."""
    if "security" not in type(trigger).model_fields:
        return ""
    security: Any = getattr(trigger, "security")  # noqa: B009  not every kind has it
    if security is None:
        return "without a login: spec.security is not set"
    user = getattr(security, "username", None) or getattr(getattr(security, "sasl", None), "username", None)
    secrets = sorted({f"Secret {reference.name!r}" for _, reference in secret_refs(security)})
    return ", ".join([*([f"user {user!r}"] if user else []), *secrets])
