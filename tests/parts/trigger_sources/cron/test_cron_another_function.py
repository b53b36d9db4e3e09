"""A cron trigger that gets another function goes on after the last tick of the former one."""

import json
import time
from datetime import datetime
from pathlib import Path

from servers.retargeting import bench, until

from trigger_sources.cron import CronTrigger


async def test_ticks_that_came_due_or_were_open_go_to_the_new_function(tmp_path: Path) -> None:
    spec = {
        "schedule": "* * * * * *",
        "catchUp": "all",
        "delivery": {"backoffSeconds": 3_600, "backoffMaxSeconds": 3_600},
    }
    async with bench(tmp_path, CronTrigger, **spec) as it:
        it.failing.add("a")
        await it.target("a")
        await until(lambda: len(it.functions["a"].calls) >= 2)
        failed = [call.id for call in it.functions["a"].calls]
        await it.restart()
        book = json.loads(await it.store.state("uid", "a").get("ticks") or b"")
        stopped_at = book["considered"]
        two_ticks_later = datetime.fromisoformat(stopped_at).timestamp() + 2
        await until(lambda: time.time() > two_ticks_later)
        await it.target("b")
        await until(lambda: len(it.functions["b"].calls) >= len(failed) + 3)
        ids = [call.id for call in it.functions["b"].calls]
        assert set(failed) <= set(ids)
        assert len(set(ids)) == len(ids)
        later = sorted(found for found in ids if found not in failed)
        seconds = [int(found.rpartition(":")[2].removesuffix("Z")) for found in later]
        last = int(stopped_at[17:19])
        assert seconds == [(last + 1 + number) % 60 for number in range(len(seconds))], (stopped_at, later)
        assert await it.store.state("uid", "a").get("ticks") is None
