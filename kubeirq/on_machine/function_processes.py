"""The functions of the fabric: one process and one gate for each."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from kubeirq.on_machine.desired_state import FunctionResource
from kubeirq.on_machine.environments import InstallFailed
from kubeirq.on_machine.function_process import FunctionProcess
from kubeirq.on_machine.log_files import FunctionLogs
from kubeirq.on_machine.programs import InvalidFunction, discard_unused, prepare_program
from kubeirq.output.function_log_lines import LogLine
from trigger_sources.dispatch.gate import Gate
from trigger_sources.source import SourceError

_NOWHERE = "http://127.0.0.1:9/"  # a gate's URL before its function has an address

FunctionKey = tuple[str, str]  # namespace, name
Environment = Callable[[FunctionResource], Mapping[str, str]]  # raises MissingSecret


class FunctionProcesses:
    """Starts, replaces and stops the processes of functions. `debug` has the debugger's port by function name."""

    def __init__(
        self,
        state: Path,
        *,
        show_line: Callable[[LogLine], None],
        notice: Callable[[str], None],
        debug: Mapping[str, int],
    ) -> None:
        self.by_key: dict[FunctionKey, FunctionProcess] = {}
        self._state = state
        self._show_line = show_line
        self._notice = notice
        self._debug = debug
        self._logs = FunctionLogs(state)
        self._gates: dict[FunctionKey, Gate] = {}
        self._preparing: dict[FunctionKey, asyncio.Task[None]] = {}

    def gate(self, namespace: str, name: str) -> Gate:
        """The gate of that function. If there is no such function, its gate is closed and events wait."""
        key = (namespace, name)
        if key not in self._gates:
            self._gates[key] = Gate(name, _NOWHERE)
            self._gates[key].close(f"there is no Function {name!r}")
        return self._gates[key]

    def apply(self, functions: Sequence[FunctionResource], environment: Environment) -> None:
        """Prepares each function in the background, and starts its program if that changed."""
        for function in functions:
            key = (function.namespace, function.name)
            if key not in self.by_key:
                self.by_key[key] = FunctionProcess(
                    function.name, self.gate(*key), partial(self._print, function.namespace)
                )
            if (before := self._preparing.pop(key, None)) is not None:
                before.cancel()
            self._preparing[key] = asyncio.create_task(self._prepare(function, environment, self.by_key[key]))

    async def remove_all_but(self, keys: Collection[FunctionKey]) -> None:
        for key in [key for key in self.by_key if key not in keys]:
            if (task := self._preparing.pop(key, None)) is not None:
                task.cancel()
            await self.by_key.pop(key).stop()
            self._gates[key].close(f"there is no Function {key[1]!r}")

    async def prepared(self) -> None:
        """Returns when the background tasks of `apply` have ended."""
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    def cancel_preparing(self) -> None:
        for task in self._preparing.values():
            task.cancel()

    async def stop(self) -> None:
        self.cancel_preparing()
        await self.prepared()
        await asyncio.gather(*(process.stop() for process in self.by_key.values()))
        await asyncio.gather(*(gate.aclose() for gate in self._gates.values()))
        self.by_key.clear()
        self._gates.clear()

    def close_logs(self) -> None:
        self._logs.close()

    def _print(self, namespace: str, line: LogLine) -> None:
        self._logs.write(namespace, line.function, line.text)
        self._show_line(line)

    async def _prepare(self, function: FunctionResource, environment: Environment, process: FunctionProcess) -> None:
        """Copies the code and installs dependencies, then runs the program if it changed."""
        try:
            program = await prepare_program(
                function.spec,
                namespace=function.namespace,
                name=function.name,
                base=function.base,
                state=self._state,
                environment=environment(function),
                show=self._notice,
                debug_port=self._debug.get(function.name),
                project=function.project,
            )
        except (InvalidFunction, InstallFailed, SourceError, OSError) as error:
            process.failed(str(error))
            return
        if program != process.newest:
            discard_unused(program.folder.parent, [program.folder, *process.folders()])
            process.run(program)
