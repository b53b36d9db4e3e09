"""The reasons why an address does not answer are told apart, with the host."""

import asyncio

from servers.ports import free_port

from trigger_sources.transport.diagnosis import reason_of, reasons_of


async def test_a_name_a_port_and_another_protocol_are_told_apart() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        open_port, closed_port = server.sockets[0].getsockname()[1], free_port()
        addresses = ["no-such-host.invalid:9092", f"127.0.0.1:{closed_port}", f"nats://user@127.0.0.1:{open_port}"]
        found = (await reasons_of(addresses, 4222, "a NATS server")).split("; ", 2)
    assert found[0].startswith("no-such-host.invalid:9092: the name cannot be resolved (")
    assert found[1] == f"127.0.0.1:{closed_port}: connection refused (nothing listens on this port)"
    assert f"127.0.0.1:{open_port}: something listens there and does not answer as a NATS server" in found[2]
    assert "user" not in found[2]


async def test_an_address_without_a_port_has_the_usual_one() -> None:
    assert (await reason_of("no-such-host.invalid", 4222, "a NATS server")).startswith("no-such-host.invalid:4222: ")
    assert (await reason_of("tls://[::1]:1", 4222, "a NATS server")).startswith("::1:1: ")


async def test_of_many_addresses_only_the_first_are_asked() -> None:
    found = await reasons_of([f"no-such-host-{number}.invalid" for number in range(1_000)], 9092, "a Kafka broker")
    assert found.count("cannot be resolved") == 3
