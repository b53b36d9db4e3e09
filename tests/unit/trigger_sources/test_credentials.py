"""Digests of secrets: different for different texts, and of no use to anyone who wants to know a text."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from trigger_sources.credentials import digest_of, identity_of
from trigger_sources.spec import SecretRef, Spec
from trigger_sources.testing import StandInContext

TEXTS = st.lists(st.none() | st.text(st.characters(), max_size=3), max_size=3)


@given(TEXTS, TEXTS)
def test_only_equal_texts_have_equal_digests(one: list[str | None], other: list[str | None]) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


def test_a_digest_is_no_plain_hash_of_the_text() -> None:
    assert digest_of(["secret"]) not in {
        hashlib.blake2b(text, digest_size=16).hexdigest() for text in (b"secret", b"6:secret")
    }


class Login(Spec):
    user: str = "ada"
    password: SecretRef | None = Field(None)


async def test_an_identity_has_the_references_and_the_content_and_not_the_text() -> None:
    login = Login(password=SecretRef(name="s", key="k"))
    same, other = (StandInContext(secrets={("s", "k"): text, ("s", "l"): text}) for text in ("first", "second"))
    assert await identity_of(login, same) == await identity_of(login, same)
    assert await identity_of(login, same) != await identity_of(login, other)
    assert await identity_of(login, same) != await identity_of(Login(password=SecretRef(name="s", key="l")), same)
    assert await identity_of(login, same) != await identity_of(login.model_copy(update={"user": "eve"}), same)
    assert "first" not in await identity_of(login, same)
    assert await identity_of(None, same) == "none"
