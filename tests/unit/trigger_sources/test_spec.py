"""The names and addresses in the spec of a trigger."""

import pytest
from pydantic import ValidationError

from trigger_sources.nats import NATSTrigger
from trigger_sources.problems import problem_text
from trigger_sources.spec import problem_of_name, problem_of_url


def problem_of(**fields: object) -> str:
    """The problem of a NATSTrigger with these fields; empty if there is none."""
    try:
        NATSTrigger.model_validate({"function": "f", "subject": "s", **fields})
    except ValidationError as error:
        return problem_text(error, NATSTrigger)
    return ""


@pytest.mark.parametrize("name", ["a", "invoice", "invoice-2", "a1", "a" * 63])
def test_a_functions_name_is_a_label_that_begins_with_a_letter(name: str) -> None:
    assert problem_of_name(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "1st", "-a", "a-", "A", "Invoice", "a.b", "a_b", "a b", "a\n", "é", "a" * 64, "x.other.svc:8080/x?", "a/../b"],
)
def test_an_invalid_label_is_not_a_functions_name(name: str) -> None:
    assert problem_of_name(name) == (
        f"{name!r}: a Function's name is lower-case letters, digits and -, a letter first, at most 63"
    )


def test_an_invalid_reference_is_refused_with_its_field() -> None:
    assert problem_of(function="1st").startswith("spec.target.function: '1st': a Function's name is lower-case letters")
    assert problem_of(reply={"function": "1st"}).startswith("spec.reply: function: '1st': a Function's name is")


@pytest.mark.parametrize(
    "server",
    [
        "nats",
        "nats:4222",
        "nats://nats",
        "tls://nats.example:4222",
        "ws://10.0.0.1:80/",
        "wss://n",
        "nats://[::1]:4222",
    ],
)
def test_a_nats_server_is_a_host_with_or_without_scheme_and_port(server: str) -> None:
    assert problem_of(servers=[server]) == ""
    assert problem_of(reply={"nats": {"subject": "s", "servers": [server]}}) == ""


@pytest.mark.parametrize(
    "server",
    ["", "http://x", "nats://", "nats://n:0", "nats://n:65536", "nats://n:port", "n/path", "a b", "nats://n\n"],
)
def test_an_invalid_nats_server_is_named(server: str) -> None:
    problem = f"{server!r}: host or host:port each is needed, as nats://nats:4222"
    assert problem_of(servers=["nats://fine", server]).startswith(f"spec.servers: {problem}")
    assert problem in problem_of(reply={"nats": {"subject": "s", "servers": [server]}})


@pytest.mark.parametrize("subject", ["a b", "a\tb", "x 0\r\n\r\nPUB y 1\r\nz", "a\0b", "a..b", ".a", "a.", "a\u00a0b"])
def test_a_subject_that_could_be_read_as_a_command_is_refused(subject: str) -> None:
    assert problem_of(subject=subject).startswith(f"spec.subject: {subject!r} is not a subject")
    assert f"{subject!r} is not a subject" in problem_of(reply={"nats": {"subject": subject}})


@pytest.mark.parametrize("subject", ["a.*", "a.>", ">", "*.a"])
def test_only_a_trigger_may_have_wildcards_in_its_subject(subject: str) -> None:
    assert problem_of(subject=subject) == ""
    assert "without wildcards" in problem_of(reply={"nats": {"subject": subject}})


@pytest.mark.parametrize("name", ["a b", "a.b", "*", ">", "a/b", "S\r\nPUB x 0\r\n"])
def test_a_name_that_could_be_read_as_more_than_a_stream_is_refused(name: str) -> None:
    assert f"{name!r} is not a name" in problem_of(stream=name)
    assert f"delivery.deadLetter.name: {name!r} is not a name" in problem_of(delivery={"deadLetter": {"name": name}})
    assert problem_of(mode="core", delivery={"deadLetter": {"name": name}}) == ""


def test_a_password_in_the_address_of_a_server_is_not_repeated() -> None:
    found = problem_of(servers=["nats://me:s3cret@nats:4222"])
    assert (
        found == "spec.servers: an address with a name or password in it is shown in conditions and logs: use security"
    )


@pytest.mark.parametrize("url", ["http://a b/", "http://a/x y", "http://a\x00/", "http://a/\u2028"])
def test_an_address_with_blanks_or_unprintable_characters_is_invalid(url: str) -> None:
    assert problem_of_url(url) == "an address has no blanks; percent-encode them"
