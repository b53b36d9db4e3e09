"""The actions of an operator, as a table. Each returns a few words about the choice that it made."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from soak.flow import SKIPPED_BY_FILTER, Flow
from soak.function import BROKEN, FUNCTION_CONCURRENCY, HANG_SECONDS, version
from soak.world import World, nats_config


@dataclass(frozen=True)
class Action:
    """`cuts`: connections or processes end, so that events that are sent at most once may be lost."""

    name: str
    do: Callable[[World], Awaitable[str]]
    cuts: bool = False


# --- topics and streams


async def add_partitions(world: World) -> str:
    flow = world.choose("KafkaTrigger")
    await world.kafka_sender(flow).add_partitions(1)
    return f"{flow.name}: {world.kafka_sender(flow).partitions} partitions"


async def recreate_topic(world: World) -> str:
    flow, drained = world.choose("KafkaTrigger"), world.dice.random() < 0.5
    sender = world.kafka_sender(flow)
    async with replacing(world, flow, drained):
        await sender.delete()
        await sender.create()
    return f"{flow.name}{', drained' if drained else ''}"


async def recreate_stream(world: World) -> str:
    """Once all of its messages are delivered: JetStream does not tell how many of them it destroys unread."""
    flow = world.choose("NATSTrigger", promise="once")
    sender = world.nats_sender(flow)
    async with replacing(world, flow, drained=True):
        await sender.delete()
        await sender.create()
    return flow.name


async def purge_stream(world: World) -> str:
    flow = world.choose("NATSTrigger", promise="once")
    return await destroy_unread(world, flow, world.nats_sender(flow).purge, "{} messages of stream")


async def retention(world: World) -> str:
    flow = world.choose("KafkaTrigger")
    return await destroy_unread(world, flow, world.kafka_sender(flow).delete_records, "up to {} records were deleted")


async def destroy_unread(world: World, flow: Flow, destroy: Callable[[], Awaitable[None]], message: str) -> str:
    """Destroys events that a suspended trigger has not read, and waits until its condition has their number."""
    sender = world.senders[flow.name]
    async with sender.pause:
        await world.drained(flow)
        async with suspended(world, flow):
            sent = [await sender.send("nothing") for _ in range(world.dice.randint(3, 10))]
            flow.destroy()
            await destroy()

    async def reported() -> bool:
        found = (await world.fabric.trigger(flow.name))["conditions"][1]["message"]
        return bool(found.startswith(message.format(len(sent))))

    await world.until(f"{flow.name} reports {len(sent)} events that were destroyed", reported, 30)
    return f"{flow.name}: {len(sent)} events while it is suspended"


@asynccontextmanager
async def replacing(world: World, flow: Flow, drained: bool) -> AsyncIterator[None]:
    """The records of the source are destroyed within the context."""
    async with world.senders[flow.name].pause:
        if drained:
            await world.drained(flow)
        world.look()
        flow.destroy()
        yield
        flow.incarnation += 1


# --- credentials


async def rotate_nats_password(world: World) -> str:
    world.nats_password += "+"
    server_first = world.dice.random() < 0.5
    if server_first:
        await world.nats.reload(nats_config(world.nats_password))
        await asyncio.sleep(world.dice.uniform(0, 3))
    await world.reload()
    if not server_first:
        await asyncio.sleep(world.dice.uniform(0, 3))
        await world.nats.reload(nats_config(world.nats_password))
    return "the server first" if server_first else "the Secret first"


async def rotate_kafka_password(world: World) -> str:
    before, world.kafka_password = world.kafka_password, f"{world.kafka_password}+"
    properties = world.kafka.folder / "server.properties"
    await world.kafka.stop()
    properties.write_text(properties.read_text().replace(f'="{before}"', f'="{world.kafka_password}"'))
    await world.kafka.start()
    await asyncio.sleep(world.dice.uniform(0, 3))
    await world.reload()
    return "the broker first"


# --- triggers


async def suspend(world: World) -> str:
    flow, seconds = world.choose(), world.dice.uniform(2, 8)
    async with suspended(world, flow):
        await asyncio.sleep(seconds)
    return f"{flow.name} for {seconds:.0f} s"


@asynccontextmanager
async def suspended(world: World, flow: Flow) -> AsyncIterator[None]:
    base = f"/v1/triggers/default/{flow.kind}/{flow.name}"
    await world.fabric.ask("POST", f"{base}/suspend")
    try:
        yield
    finally:
        await world.fabric.ask("POST", f"{base}/resume")


async def edit_trigger(world: World) -> str:
    flow = world.dice.choice([flow for flow in world.flows.values() if flow.edits])
    name = world.dice.choice(sorted(flow.edits))
    value = world.dice.choice([value for value in flow.edits[name] if value != flow.spec.get(name)])
    flow.spec = {key: found for key, found in {**flow.spec, name: value}.items() if found is not None}
    if flow.spec.get("filter") == SKIPPED_BY_FILTER:
        flow.filter_from_now_on()
    await world.reload()
    return f"{flow.name}: {name} {value}"


# --- processes


async def restart_serve(world: World) -> str:
    code = await world.fabric.stop()
    await world.fabric.start()
    return f"it ended with {code}"


async def kill_serve(world: World) -> str:
    async with world.interruption():
        await world.fabric.kill()
    await world.fabric.start()
    return ""


async def freeze_serve(world: World) -> str:
    assert world.fabric.process is not None
    seconds = world.dice.uniform(2, 12)
    async with world.interruption():
        world.fabric.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
    world.fabric.process.send_signal(signal.SIGCONT)
    return f"for {seconds:.0f} s"


async def restart_broker(world: World) -> str:
    broker = world.dice.choice([world.kafka, world.nats])
    await broker.stop()
    await asyncio.sleep(world.dice.uniform(0, 4))
    await broker.start()
    return type(broker).__name__


async def kill_broker(world: World) -> str:
    broker = world.dice.choice([world.kafka, world.nats])
    await broker.kill()
    await asyncio.sleep(world.dice.uniform(0, 4))
    await broker.start()
    return type(broker).__name__


# --- functions


async def redeploy(world: World) -> str:
    world.version += 1
    world.write_code(version(world.version))
    await world.reload()
    return f"version {world.version}"


async def redeploy_while_down(world: World) -> str:
    """The function dies with every call, and its next version does not start; then one does."""
    world.write_code(BROKEN)
    await world.reload()
    await asyncio.sleep(world.dice.uniform(1, 4))
    return await redeploy(world)


async def function_down(world: World) -> str:
    seconds = world.dice.uniform(2, 8)
    async with world.interruption(of_serve=False):
        await world.external.kill()
    await asyncio.sleep(seconds)
    world.version += 1
    (world.external.folder / "f.py").write_text(version(world.version))
    await world.external.start()
    return f"for {seconds:.0f} s, and version {world.version} afterwards"


async def function_fails(world: World) -> str:
    answer, seconds = world.dice.choice([500, 429, 503]), world.dice.uniform(2, 6)
    world.commands.give({"answer": answer})
    await asyncio.sleep(seconds)
    world.commands.give({})
    return f"{answer} for {seconds:.0f} s"


async def die_in_a_call(world: World) -> str:
    return await lose_a_call(world, "die", 2)


async def hang_in_a_call(world: World) -> str:
    return await lose_a_call(world, "hang", HANG_SECONDS)


async def lose_a_call(world: World, does: str, seconds: float) -> str:
    """The function's process is replaced: the other calls that it runs may be repeated."""
    flow = world.choose(promise="once", sends=True)
    for other in world.flows.values():
        if other.spec.get("function") == flow.spec.get("function"):
            other.repeatable += FUNCTION_CONCURRENCY
    async with world.senders[flow.name].pause:
        await world.senders[flow.name].send(does)
    await asyncio.sleep(seconds)
    return flow.name


# --- events that cannot be delivered


async def poison(world: World) -> str:
    flow = world.choose(promise="once", sends=True)
    async with world.senders[flow.name].pause:
        id = await world.senders[flow.name].send("poison")

    async def dead() -> bool:
        return id is None or id in (await world.dead_letters(flow)).values()

    await world.until(f"a dead letter of {id}", dead, 30)
    return f"{flow.name}: {id}"


async def redrive(world: World) -> str:
    world.commands.give({"mended": True})
    redriven = 0
    try:
        for flow in world.of_kind(promise="once"):
            ids = set((await world.dead_letters(flow)).values())
            if ids:
                flow.moved |= ids
                redriven += len(ids)
                base = f"/v1/triggers/default/{flow.kind}/{flow.name}/dead-letters"
                await world.fabric.ask("POST", f"{base}/redrive", {"identities": None})
    finally:
        world.commands.give({})
    return f"{redriven} dead letters"


ACTIONS = (
    Action("add partitions", add_partitions),
    Action("delete and create a topic", recreate_topic),
    Action("delete and create a stream", recreate_stream),
    Action("purge a stream", purge_stream),
    Action("retention", retention),
    Action("rotate the NATS password", rotate_nats_password, cuts=True),
    Action("rotate the Kafka password", rotate_kafka_password),
    Action("suspend and resume", suspend, cuts=True),
    Action("edit a trigger", edit_trigger),
    Action("restart serve", restart_serve, cuts=True),
    Action("kill -9 serve", kill_serve, cuts=True),
    Action("freeze serve", freeze_serve),
    Action("restart a broker", restart_broker, cuts=True),
    Action("kill -9 a broker", kill_broker, cuts=True),
    Action("redeploy the function", redeploy),
    Action("redeploy while it is down", redeploy_while_down),
    Action("function down", function_down),
    Action("function fails", function_fails),
    Action("function dies in a call", die_in_a_call),
    Action("function hangs in a call", hang_in_a_call),
    Action("poison event", poison),
    Action("redrive dead letters", redrive),
)
