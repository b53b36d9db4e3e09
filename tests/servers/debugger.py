"""An editor that attaches to a function under `kubeirq dev --debug`."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


class Debugger:
    """An editor that speaks the Debug Adapter Protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0

    def ask(self, command: str, **arguments: Any) -> None:
        self._number += 1
        body = json.dumps({"seq": self._number, "type": "request", "command": command, "arguments": arguments})
        self._writer.write(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())

    async def until(self, name: str) -> Any:
        """The next event of that name, or the answer to that command."""
        while True:
            head = await self._reader.readuntil(b"\r\n\r\n")
            found = json.loads(await self._reader.readexactly(int(head.split(b":")[1])))
            if name in (found.get("event"), found.get("command")):
                return found.get("body")


@asynccontextmanager
async def attached(host: str, port: int, file: Path, line: int) -> AsyncIterator[Debugger]:
    """With a breakpoint at that line of that file. Detached at the end."""
    reader, writer = await asyncio.open_connection(host, port)
    editor = Debugger(reader, writer)
    editor.ask("initialize", adapterID="x")
    await editor.until("initialize")
    editor.ask("attach", justMyCode=True)
    await editor.until("initialized")
    editor.ask("setBreakpoints", source={"path": str(file)}, breakpoints=[{"line": line}])
    assert (await editor.until("setBreakpoints"))["breakpoints"][0]["verified"]
    editor.ask("configurationDone")
    await editor.until("configurationDone")
    yield editor
    editor.ask("disconnect")
    await editor.until("disconnect")
    writer.close()
    await writer.wait_closed()


async def stopped_at(editor: Debugger) -> tuple[str, int]:
    """The file and line at which a call stops next. It goes on after."""
    stopped = await editor.until("stopped")
    assert stopped["reason"] == "breakpoint"
    editor.ask("stackTrace", threadId=stopped["threadId"])
    frame = (await editor.until("stackTrace"))["stackFrames"][0]
    editor.ask("continue", threadId=stopped["threadId"])
    return frame["source"]["path"], frame["line"]
