"""Secrets as a trigger controller knows them."""

import base64

import pytest

from controllers.triggers.secrets import Secrets
from trigger_sources.source import MissingSecret, SourceError
from trigger_sources.spec import SecretRef


def secret(version: str = "1", uid: str = "1", **data: str) -> dict[str, object]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"namespace": "a", "name": "s", "uid": uid, "resourceVersion": version}, "data": encoded}


def test_a_rotation_is_told_and_a_touch_is_not() -> None:
    secrets = Secrets(["a"])
    assert secrets.observe(secret(token="x")) == ("a", "s")
    assert secrets.text("a", SecretRef(name="s", key="token")) == "x"
    before = secrets.versions("a", ["s"])
    assert secrets.observe(secret("2", token="x")) is None
    assert secrets.versions("a", ["s"]) == before
    assert secrets.observe(secret("3", token="y")) == ("a", "s")
    assert secrets.versions("a", ["s"]) != before
    assert secrets.observe(secret("4"), deleted=True) == ("a", "s")
    with pytest.raises(MissingSecret, match=r"no Secret 's' in namespace 'a'; create it there"):
        secrets.text("a", SecretRef(name="s", key="token"))


def test_what_is_missing_is_named() -> None:
    secrets = Secrets(["a"])
    secrets.observe(secret(token="x"))
    with pytest.raises(MissingSecret, match=r"has no key 'password'; its keys: token"):
        secrets.text("a", SecretRef(name="s", key="password"))


def test_a_namespace_that_may_not_be_read_names_the_value_that_would_allow_it() -> None:
    with pytest.raises(SourceError, match=r"may not read Secrets of namespace 'b'; add it to") as caught:
        Secrets(["a"]).text("b", SecretRef(name="s", key="k"))
    assert caught.value.reason == "SecretForbidden"


def test_bytes_that_are_no_text_are_refused_without_showing_them() -> None:
    secrets = Secrets(["a"])
    found = secret()
    found["data"] = {"k": base64.b64encode(b"\xff\xfe").decode()}
    secrets.observe(found)
    with pytest.raises(MissingSecret, match=r"key 'k' is not UTF-8 text"):
        secrets.text("a", SecretRef(name="s", key="k"))


def test_a_secret_that_went_while_nobody_watched_is_missed_by_the_next_listing() -> None:
    secrets = Secrets(["a"])
    secrets.observe(secret(token="x"))
    before = secrets.versions("a", ["s"])
    secrets.begin_list()
    secrets.replace([secret("2", token="x")])
    assert secrets.versions("a", ["s"]) == before
    secrets.begin_list()
    secrets.replace([])
    assert secrets.versions("a", ["s"]) != before
    with pytest.raises(MissingSecret, match=r"no Secret 's'"):
        secrets.text("a", SecretRef(name="s", key="token"))


def test_a_rotation_that_is_told_while_a_listing_is_under_way_stands() -> None:
    secrets = Secrets(["a"])
    secrets.observe(secret(token="x"))
    secrets.begin_list()
    secrets.observe(secret("2", token="y"))
    secrets.replace([secret(token="x")])
    assert secrets.text("a", SecretRef(name="s", key="token")) == "y"


def test_the_late_end_of_an_older_secret_is_not_that_of_its_successor() -> None:
    secrets = Secrets(["a"])
    secrets.observe(secret(token="x"))
    secrets.observe(secret("2", uid="2", token="y"))
    assert secrets.observe(secret("1", token="x"), deleted=True) is None
    assert secrets.text("a", SecretRef(name="s", key="token")) == "y"
