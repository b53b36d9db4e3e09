"""Secrets as a trigger controller knows them."""

import base64

import pytest

from controllers.triggers.secrets import Secrets, way_out_of
from trigger_sources.source import MissingSecret, SourceError
from trigger_sources.spec import SecretRef


def secret(version: str = "1", uid: str = "1", **data: str) -> dict[str, object]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"namespace": "a", "name": "s", "uid": uid, "resourceVersion": version}, "data": encoded}


def listed(*secrets_: dict[str, object]) -> Secrets:
    """The Secrets of namespace a."""
    secrets = Secrets()
    secrets.begin_list("a")
    secrets.replace("a", secrets_)
    return secrets


def test_a_rotation_is_told_and_a_touch_is_not() -> None:
    secrets = listed()
    assert secrets.observe(secret(token="x")) == {"s"}
    assert secrets.text("a", SecretRef(name="s", key="token")) == "x"
    before = secrets.versions("a", ["s"])
    assert secrets.observe(secret("2", token="x")) == set()
    assert secrets.versions("a", ["s"]) == before
    assert secrets.observe(secret("3", token="y")) == {"s"}
    assert secrets.versions("a", ["s"]) != before
    assert secrets.observe(secret("4"), deleted=True) == {"s"}
    with pytest.raises(MissingSecret, match=r"no Secret 's' in namespace 'a'; create it there"):
        secrets.text("a", SecretRef(name="s", key="token"))


def test_what_is_missing_is_named() -> None:
    secrets = listed()
    secrets.observe(secret(token="x"))
    with pytest.raises(MissingSecret, match=r"has no key 'password'; its keys: token"):
        secrets.text("a", SecretRef(name="s", key="password"))


def test_a_namespace_that_may_not_be_read_names_what_to_type() -> None:
    secrets = Secrets(way_out_of("kubeirq-secrets", "system:kubeirq-nats"))
    secrets.forbid("b")
    with pytest.raises(SourceError, match=r"may not read Secrets of namespace 'b'; an admin of the") as caught:
        secrets.text("b", SecretRef(name="s", key="k"))
    assert caught.value.reason == "SecretForbidden"
    assert str(caught.value).endswith(
        "types: kubectl create rolebinding kubeirq-nats-secrets --clusterrole=kubeirq-secrets"
        " --serviceaccount=system:kubeirq-nats --namespace=b"
    )
    assert way_out_of("", "") == "add it to secretNamespaces in the chart's values"


def test_a_right_that_is_taken_away_takes_the_secrets_and_a_failure_leaves_them() -> None:
    secrets = listed(secret(token="x"))
    before = secrets.versions("a", ["s"])
    secrets.fail("a", "no answer")
    assert secrets.text("a", SecretRef(name="s", key="token")) == "x"
    assert secrets.forbid("a") == {"s"}
    assert secrets.versions("a", ["s"]) != before
    with pytest.raises(SourceError, match="may not read"):
        secrets.text("a", SecretRef(name="s", key="token"))
    secrets.begin_list("a")
    assert secrets.replace("a", [secret("2", token="x")]) == {"s"}
    assert secrets.text("a", SecretRef(name="s", key="token")) == "x"


def test_before_the_first_list_nobody_knows_whether_a_secret_exists() -> None:
    secrets = Secrets()
    with pytest.raises(SourceError, match="are not read yet") as caught:
        secrets.text("a", SecretRef(name="s", key="token"))
    assert caught.value.reason == "SecretsUnread"
    secrets.fail("a", "no answer")
    with pytest.raises(SourceError, match="cannot be read: no answer"):
        secrets.text("a", SecretRef(name="s", key="token"))


def test_bytes_that_are_no_text_are_refused_without_showing_them() -> None:
    secrets = listed()
    found = secret()
    found["data"] = {"k": base64.b64encode(b"\xff\xfe").decode()}
    secrets.observe(found)
    with pytest.raises(MissingSecret, match=r"key 'k' is not UTF-8 text"):
        secrets.text("a", SecretRef(name="s", key="k"))


def test_a_secret_that_went_while_nobody_watched_is_missed_by_the_next_listing() -> None:
    secrets = listed()
    secrets.observe(secret(token="x"))
    before = secrets.versions("a", ["s"])
    secrets.begin_list("a")
    secrets.replace("a", [secret("2", token="x")])
    assert secrets.versions("a", ["s"]) == before
    secrets.begin_list("a")
    secrets.replace("a", [])
    assert secrets.versions("a", ["s"]) != before
    with pytest.raises(MissingSecret, match=r"no Secret 's'"):
        secrets.text("a", SecretRef(name="s", key="token"))


def test_a_rotation_that_is_told_while_a_listing_is_under_way_stands() -> None:
    secrets = listed()
    secrets.observe(secret(token="x"))
    secrets.begin_list("a")
    secrets.observe(secret("2", token="y"))
    secrets.replace("a", [secret(token="x")])
    assert secrets.text("a", SecretRef(name="s", key="token")) == "y"


def test_the_late_end_of_an_older_secret_is_not_that_of_its_successor() -> None:
    secrets = listed()
    secrets.observe(secret(token="x"))
    secrets.observe(secret("2", uid="2", token="y"))
    assert secrets.observe(secret("1", token="x"), deleted=True) == set()
    assert secrets.text("a", SecretRef(name="s", key="token")) == "y"
