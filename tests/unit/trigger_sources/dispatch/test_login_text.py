"""A refused login is told with its user and Secrets."""

from typing import Any

import pytest

from trigger_sources.cron import CronTrigger
from trigger_sources.dispatch.login_text import login_of
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.nats import NATSTrigger
from trigger_sources.source import TriggerSource

PASSWORD = {"name": "mailer", "key": "password"}
NATS: dict[str, Any] = {"function": "f", "subject": "s"}
KAFKA: dict[str, Any] = {"function": "f", "topics": ["t"]}
SASL = {"mechanism": "PLAIN", "username": "u", "password": PASSWORD}


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (
            NATSTrigger.model_validate({**NATS, "security": {"username": "mailer", "password": PASSWORD}}),
            "user 'mailer', Secret 'mailer'",
        ),
        (NATSTrigger.model_validate({**NATS, "security": {"creds": {"name": "c", "key": "k"}}}), "Secret 'c'"),
        (NATSTrigger.model_validate(NATS), "without a login: spec.security is not set"),
        (
            KafkaTrigger.model_validate(
                {**KAFKA, "security": {"sasl": SASL, "tls": {"ca": {"name": "ca", "key": "k"}}}}
            ),
            "user 'u', Secret 'ca', Secret 'mailer'",
        ),
        (CronTrigger.model_validate({"function": "f", "schedule": "@daily"}), ""),
    ],
)
def test_the_login_names_the_user_and_the_secrets(trigger: TriggerSource, expected: str) -> None:
    assert login_of(trigger) == expected
