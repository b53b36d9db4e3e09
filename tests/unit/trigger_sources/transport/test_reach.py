"""The addresses that a trigger on a cluster may call, by host and by resolved address."""

import asyncio
from collections.abc import Sequence

import pytest

from controllers.triggers.egress_policy import egress_policy_from, egress_rejection
from trigger_sources.cron.source import CronTrigger
from trigger_sources.transport.egress_policy import Reach
from trigger_sources.transport.resolver import looked_up, resolver

RESOLV_CONF = "search kubeirq.svc.k8s.example svc.k8s.example k8s.example\nnameserver 10.96.0.10\noptions ndots:5\n"
REACH = Reach()
PRIVATE = ["10.96.4.7"]


@pytest.mark.parametrize(
    ("host", "absolute"),
    [
        ("pay", "pay.shop.svc.cluster.local."),
        ("Pay.Shop", "pay.shop.svc.cluster.local."),
        ("pay.shop.svc", "pay.shop.svc.cluster.local."),
        ("pay.shop.svc.cluster.local", "pay.shop.svc.cluster.local."),
        ("db-0.db.shop.svc", "db-0.db.shop.svc.cluster.local."),
        ("pay.", "pay."),
        ("pay.other", "pay.other."),
        ("hooks.example", "hooks.example."),
        ("2130706433", "127.0.0.1"),
        ("bücher.example", "xn--bcher-kva.example."),
    ],
)
def test_a_short_name_is_a_service_of_the_triggers_own_namespace(host: str, absolute: str) -> None:
    assert REACH.absolute(host, "shop") == absolute
    assert REACH.absolute(absolute, "shop") == absolute


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("pay", PRIVATE),
        ("pay.shop", PRIVATE),
        ("pay.shop.svc", ["fd00::7", *PRIVATE]),
        ("pay.shop.svc.cluster.local", PRIVATE),
        ("hooks.example", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]),
        ("93.184.215.14", []),
    ],
)
def test_services_of_the_namespace_and_public_addresses_may_be_called(host: str, addresses: Sequence[str]) -> None:
    assert REACH.refusal(host, "shop", addresses) is None


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("pay.other.svc", "a Service of another namespace, 'other'"),
        ("PAY.other.svc.cluster.local.", "a Service of another namespace, 'other'"),
        ("db-0.db.other.svc", "a Service of another namespace, 'other'"),
        ("127.0.0.1", "a loopback address"),
        ("localhost", "a loopback address"),
        ("a.localhost.", "a loopback address"),
        ("127.1", "'127.1' is 127.0.0.1: a loopback address"),
        ("2130706433", "a loopback address"),
        ("0x7f000001", "a loopback address"),
        ("0177.0.0.1", "a loopback address"),
        ("\uff11\uff12\uff17.0.0.1", "a loopback address"),
        ("[::1]", "a loopback address"),
        ("::ffff:127.0.0.1", "a loopback address"),
        ("::127.0.0.1", "a loopback address"),
        ("64:ff9b::7f00:1", "a loopback address"),
        ("2002:7f00:1::", "a loopback address"),
        ("0.0.0.0", "an address that is not a single host's"),
        ("0", "an address that is not a single host's"),
        ("::", "an address that is not a single host's"),
        ("169.254.169.254", "a link-local or metadata address"),
        ("::ffff:169.254.169.254", "a link-local or metadata address"),
        ("fe80::1%eth0", "a link-local or metadata address"),
        ("168.63.129.16", "a link-local or metadata address"),
        ("10.0.0.1", "'10.0.0.1': a private address; call a Service of the trigger's own namespace"),
        ("192.168.1.1", "a private address"),
        ("100.100.100.200", "a private address"),
        ("0.1.2.3", "a private address"),
        ("255.255.255.255", "a private address"),
        ("fd00:ec2::254", "a private address"),
        ("fec0::1", "a private address"),
        ("224.0.0.1", "an address that is not a single host's"),
        ("ff02::1", "an address that is not a single host's"),
    ],
)
def test_a_host_that_its_text_alone_forbids_is_refused_before_any_dns_query(host: str, problem: str) -> None:
    assert problem in (REACH.refusal(host, "shop") or "")


@pytest.mark.parametrize(
    ("host", "addresses", "problem"),
    [
        ("rebound.example", ["93.184.215.14", "127.0.0.1"], "'rebound.example' is 127.0.0.1: a loopback address"),
        ("rebound.example", ["::ffff:169.254.169.254"], "a link-local"),
        ("rebound.example", ["10.0.0.1"], "a private address"),
        ("pay.other", ["10.0.0.1"], "a private address"),
        ("pay.shop", ["127.0.0.1"], "a loopback address"),
        ("pay.shop", ["169.254.169.254"], "a link-local"),
    ],
)
def test_a_name_that_resolves_to_a_forbidden_address_is_refused(
    host: str, addresses: Sequence[str], problem: str
) -> None:
    assert REACH.refusal(host, "shop") is None
    assert problem in (REACH.refusal(host, "shop", addresses) or "")


def test_the_api_server_may_not_be_called_even_from_its_own_namespace() -> None:
    assert "the API server" in (REACH.refusal("kubernetes.default.svc", "default") or "")
    assert "the API server" in (REACH.refusal("kubernetes", "default") or "")
    assert REACH.refusal("kubernetes", "shop") is None  # a Service of theirs


def test_the_chart_can_allow_names_suffixes_and_networks() -> None:
    reach = egress_policy_from(["pay.other.svc", "*.corp.example", "10.1.0.0/16", "127.0.0.1", "fd00::/8"], RESOLV_CONF)
    assert reach.cluster_domain == "k8s.example"
    for host, addresses in (
        ("pay.other.svc", PRIVATE),
        ("pay.other.svc.k8s.example", PRIVATE),
        ("git.corp.example", ["10.9.9.9"]),
        ("10.1.2.3", []),
        ("::ffff:10.1.2.3", []),
        ("elsewhere.example", ["10.1.2.3"]),
        ("localhost", []),
        ("fd00::1", []),
    ):
        assert reach.refusal(host, "shop", addresses) is None, host
    for host in ("stock.other.svc", "corp.example.evil.example", "10.2.0.1", "127.0.0.2"):
        assert reach.refusal(host, "shop", ["10.9.9.9"]) is not None, host
    assert reach.refusal("corp.example", "shop", ["10.9.9.9"]) is not None


@pytest.mark.parametrize("entry", ["http://x.example", "pay", "10.0.0.0/33", "*", "*.", "a..b", "x.example:80"])
def test_an_exception_that_allows_nothing_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError, match=r"a host like name\.namespace\.svc"):
        egress_policy_from([entry], "")


async def test_an_alias_of_a_forbidden_name_is_forbidden_too() -> None:
    async def lookup(name: str) -> tuple[str, Sequence[str]]:
        assert name == "mine.shop.svc.cluster.local."
        return "secret.other.svc.cluster.local.", PRIVATE

    resolve = resolver(REACH, "shop", lookup)
    assert resolve is not None
    with pytest.raises(PermissionError, match="a Service of another namespace, 'other'"):
        await resolve("mine")


async def test_an_alias_with_one_label_is_not_a_service_of_the_namespace() -> None:
    async def lookup(name: str) -> tuple[str, Sequence[str]]:
        return "intranet.", PRIVATE

    resolve = resolver(REACH, "shop", lookup)
    assert resolve is not None
    with pytest.raises(PermissionError, match="a private address"):
        await resolve("mine")


@pytest.mark.parametrize("name", ["a..b.", f"{'a' * 64}.example."])
async def test_a_name_that_dns_cannot_resolve_causes_no_crash(name: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="is not a host name"):
            await looked_up(name)


def test_a_rejection_names_the_field_the_problem_and_the_way_out() -> None:
    def rejection(**spec: object) -> tuple[str, str] | None:
        trigger = {"metadata": {"namespace": "shop", "name": "t"}, "spec": {"schedule": "@daily", **spec}}
        return egress_rejection(REACH, trigger, CronTrigger.model_validate(trigger["spec"]))

    way_out = "call a Service of the trigger's own namespace or a public address, or add it to reach.allow in the chart"
    other = f"'pay.other.svc': a Service of another namespace, 'other'; {way_out}"
    assert rejection(url="http://pay.other.svc/x") == ("OutOfReach", f"spec.url: {other}")
    assert rejection(target={"url": "http://pay.other.svc/x"}) == ("OutOfReach", f"spec.target.url: {other}")
    assert rejection(function="f", reply={"url": "http://pay.other.svc/"}) == ("OutOfReach", f"spec.reply.url: {other}")
    assert rejection(url="http://[::1]:8080/") == ("OutOfReach", f"spec.url: '::1': a loopback address; {way_out}")
    assert rejection(url="http://pay/", reply={"function": "f"}) is None
