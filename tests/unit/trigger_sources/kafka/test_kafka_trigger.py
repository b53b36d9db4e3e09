"""The spec of a KafkaTrigger, and the settings that its clients get from it."""

import re
import ssl
import time
from typing import Any

import pytest
from pydantic import ValidationError

from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.security import Security, client_arguments
from trigger_sources.kafka.topic_names import TopicNames
from trigger_sources.problems import problem_text
from trigger_sources.source import MissingSecret
from trigger_sources.testing import StandInContext


def spec(**fields: Any) -> dict[str, Any]:
    return {"function": "f", "topics": ["orders"], **fields}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (spec(topics=[]), "topics: at least one topic is needed"),
        (spec(topicPattern="o.*"), "topics and topicPattern: one of them"),
        (spec(topics=[], topicPattern="(?!o).*"), "topicPattern: not a regular expression: invalid perl operator: (?!"),
        (spec(topics=[], topicPattern="o("), "topicPattern: not a regular expression: missing ): o("),
        (spec(topics=["o o"]), "'o o' is not a topic: letters, digits"),
        (spec(brokers=["kafka"]), "'kafka': host:port each is needed, as kafka:9092"),
        (spec(brokers=["kafka:0"]), "'kafka:0': host:port each is needed"),
        (spec(reply={"kafka": {"topic": "t", "brokers": ["kafka:99999"]}}), "'kafka:99999': host:port each is needed"),
        (spec(start="yesterday"), "'yesterday' is neither earliest, latest nor an RFC 3339 time"),
        (spec(start="2026-01-01T00:00:00"), "has no time zone"),
        (spec(maxDistance=0), "maxDistance"),
        (spec(tombstones="lose"), "tombstones"),
        (
            spec(security={"sasl": {"mechanism": "PLAIN", "username": "u"}}),
            "username and password are needed for PLAIN",
        ),
        (spec(security={"sasl": {"mechanism": "OAUTHBEARER"}}), "token is needed for OAUTHBEARER"),
        (spec(security={"tls": {"key": {"name": "s", "key": "k"}}}), "certificate and key go together"),
        (spec(topic="orders"), "topic"),
    ],
)
def test_a_problem_names_its_field(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(problem)):
        KafkaTrigger.model_validate(fields)


def test_unset_fields_lose_nothing_and_keep_order() -> None:
    trigger = KafkaTrigger.model_validate(spec())
    assert (trigger.start, trigger.lanes, trigger.tombstones, trigger.create_topics) == (
        "earliest", "key", "deliver", False,
    )  # fmt: skip


def test_a_pattern_matches_whole_names_and_no_dead_letters() -> None:
    pattern = TopicNames("orders|.*letters|kubeirq.*", "failed-letters")
    assert pattern.match("orders")
    assert pattern.match("love-letters")
    assert not pattern.match("orders-2")
    assert not pattern.match("failed-letters")
    assert not pattern.match("kubeirq.default.orders.dead-letters")
    assert pattern.match("kubeirq.orders")


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|aa)+", "(.*a){20}", "((a*)*)*b"])
def test_no_pattern_takes_exponential_time(pattern: str) -> None:
    began = time.process_time()
    assert not TopicNames(pattern, None).match("a" * 200 + "-x")
    assert time.process_time() - began < 0.1


SECRETS = {("kafka", "password"): "secret", ("kafka", "token"): "t1"}


async def test_sasl_and_tls_settings_reach_the_client() -> None:
    password = {"name": "kafka", "key": "password"}
    sasl = {"mechanism": "SCRAM-SHA-512", "username": "u", "password": password}
    context = StandInContext(secrets=SECRETS)
    found = await client_arguments(Security.model_validate({"sasl": sasl, "tls": {}}), context)
    tls = found.pop("ssl_context")
    assert tls.check_hostname
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "secret",
    }
    relaxed = await client_arguments(Security.model_validate({"tls": {"verifyHostname": False}}), context)
    assert relaxed["security_protocol"] == "SSL"
    assert not relaxed["ssl_context"].check_hostname
    assert relaxed["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert await client_arguments(None, context) == {}


async def test_a_token_is_read_again_for_each_connection() -> None:
    context = StandInContext(secrets=dict(SECRETS))
    sasl = {"mechanism": "OAUTHBEARER", "token": {"name": "kafka", "key": "token"}}
    found = await client_arguments(Security.model_validate({"sasl": sasl}), context)
    provider = found["sasl_oauth_token_provider"]
    assert await provider.token() == "t1"
    context.secrets[("kafka", "token")] = "t2"  # type: ignore[index]
    assert await provider.token() == "t2"


async def test_a_missing_secret_is_reported_before_the_client_starts() -> None:
    sasl = {"mechanism": "OAUTHBEARER", "token": {"name": "kafka", "key": "token"}}
    with pytest.raises(MissingSecret):
        await client_arguments(Security.model_validate({"sasl": sasl}), StandInContext())


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    for fields in (
        {"brokers": ["me:s3cret@kafka:9092"]},
        {"reply": {"kafka": {"topic": "t", "brokers": ["me:s3cret@kafka:9092"]}}},
        {"reply": {"nats": {"subject": "s", "servers": ["nats://me:s3cret@nats"]}}},
    ):
        with pytest.raises(ValidationError) as caught:
            KafkaTrigger.model_validate(spec(**fields))
        told = problem_text(caught.value, KafkaTrigger)
        assert "shown in conditions and logs: use security" in told
        assert "s3cret" not in told


def test_brokers_may_be_names_and_addresses() -> None:
    KafkaTrigger.model_validate(spec(brokers=["kafka-0.kafka.svc:9092", "10.0.0.1:9092", "[fd00::1]:9092"]))


def test_a_selector_of_several_functions_goes_with_a_group_for_each_of_them() -> None:
    assert KafkaTrigger.model_validate(spec()).fan_out
    assert not KafkaTrigger.model_validate(spec(group="g")).fan_out, "its members share the records"
