"""A soak from start to end: actions at random while events flow, and after each of them everything holds."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from soak.actions import ACTIONS, Action
from soak.report import Report
from soak.watch import Watch, growth
from soak.world import SEND_PAUSE_SECONDS, World, world

CALM_SECONDS = 75.0
_DRAIN_SECONDS = 90.0
_GROWTH_SHARE, _GROWTH_BYTES = 0.2, 10_000_000


async def soak(seconds: float, seed: int, folder: Path, write: Callable[[str], None] = print) -> list[str]:
    """The breaches. All choices follow from the seed; the moments do not."""
    dice, report = random.Random(seed), Report(write)
    write(f"soak for {seconds:.0f} s, seed {seed}, in {folder}")
    async with world(folder, dice) as it:
        watch, began = Watch(it), time.time()
        async with asyncio.TaskGroup() as group:  # the first task that raises ends all
            group.create_task(watch.run())
            for sender in it.senders.values():
                group.create_task(sender.send_always(it.stopping, SEND_PAUSE_SECONDS))
            await _calm(it, report)
            await _act(it, report, time.monotonic() + seconds)
            it.stopping.set()
        await _end(it, report, began)
        for breach in watch.breaches:
            report.breach(breach)
    return report.breaches


async def _act(it: World, report: Report, until: float) -> None:
    """Every action once, in a random order, before one comes again."""
    started, bag = time.monotonic(), list[Action]()
    while time.monotonic() < until and not report.breaches:
        if not bag:
            bag = it.dice.sample(ACTIONS, len(ACTIONS))
        action = bag.pop()
        at = time.monotonic() - started
        if action.cuts:
            for flow in it.flows.values():
                flow.disturb()
        try:
            detail = await action.do(it)
        except (TimeoutError, AssertionError, aiohttp.ClientError, OSError) as error:
            report.breach(f"{action.name} at {at:.1f} s: {error!r}")
            return
        done = time.monotonic()
        await _calm(it, report, f"after {action.name}, {detail}")
        report.action(at, action.name, detail, time.monotonic() - done)


async def _calm(it: World, report: Report, when: str = "at the start") -> None:
    """Returns once each trigger is Ready, and has delivered all that was sent before and something since."""
    now = time.time()
    calls = {name: len(flow.calls) for name, flow in it.flows.items()}
    late: dict[str, str] = {}

    async def is_calm() -> bool:
        it.look()
        try:
            await it.take_dead_letters()
            late.clear()
            late.update(await it.not_ready())
        except (aiohttp.ClientError, OSError, AssertionError) as error:
            late["serve"] = repr(error)
            return False
        for name, flow in it.flows.items():
            if old := flow.oldest(lambda at: at < now):
                late[name] = f"{late.get(name, 'Ready')}, not delivered: {', '.join(old[:20])}"
            elif not any(call.at > now for call in flow.calls[calls[name] :]):
                late[name] = "no event since then"
        return not late

    try:
        await it.until("calm", is_calm, CALM_SECONDS)
    except TimeoutError:
        for name, problem in late.items():
            report.breach(f"{when}, {name} is not calm within {CALM_SECONDS:.0f} s: {problem}")
            report.evidence(await it.evidence(name))
    for flow in it.flows.values():
        flow.disturbed = False


async def _end(it: World, report: Report, began: float) -> None:
    """Waits until all is settled, then judges."""
    ended = time.time()

    async def all_settled() -> bool:
        it.look()
        await it.take_dead_letters()
        held = [found["held"] for found in (await it.fabric.status())["triggers"]]
        return not any(held[: len(it.flows)]) and not any(flow.open for flow in it.flows.values())

    ticks = next(flow for flow in it.flows.values() if not flow.sends)
    try:
        await it.until("all is settled", all_settled, _DRAIN_SECONDS)
    except TimeoutError as error:
        report.breach(str(error))
    await it.readings.take(it.fabric.pid)
    it.look()
    it.take_losses()
    for id in _ticks_between(began + 2, ended - 2):
        ticks.sent.setdefault(id, None)
    verdicts = {name: flow.verdict() for name, flow in it.flows.items()}
    report.ledgers({name: (found, len(it.flows[name].in_doubt)) for name, found in verdicts.items()})
    grown = growth(it.readings.memory)
    report.memory(it.readings.memory, grown)
    for name, found in verdicts.items():
        for breach in found.breaches:
            report.breach(f"{name}: {breach}")
    if grown > _GROWTH_SHARE * max(size for _, _, size in it.readings.memory) + _GROWTH_BYTES:
        report.breach(f"memory grows: by {grown / 1e6:.1f} MB over the second half")


def _ticks_between(began: float, ended: float) -> list[str]:
    """The ids of the ticks, one a second."""
    first = datetime.fromtimestamp(int(began) + 1, UTC)
    return [
        (first + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(int(ended - began) - 1)
    ]
