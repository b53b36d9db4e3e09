"""Opens the fabric that a command uses, and turns the result into an exit code."""

import asyncio
import functools
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kubeirq.commands.fabric_options import STATE, SYSTEM_NAMESPACE, ClusterOptions, cluster_options
from kubeirq.fabric_client import FabricClient, FabricUnreachable, Refused
from kubeirq.on_cluster.kubeconfig import has_cluster

DEFAULT_STATE = Path(".kubeirq")
_COMPLETION_SECONDS = 2


def with_fabric(command: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """Opens the fabric, passes it to the command as the first argument, and exits with the code that it returns."""

    @STATE
    @cluster_options
    @SYSTEM_NAMESPACE
    @functools.wraps(command)
    def run(state: Path | None, options: ClusterOptions, **others: Any) -> None:
        is_given = click.get_current_context().get_parameter_source("state") == ParameterSource.COMMANDLINE
        if is_given and options != ClusterOptions():
            raise click.UsageError(
                "--state selects a fabric on this machine, and --context, --kubeconfig, --namespace and "
                "--system-namespace select a cluster; use only one of the two"
            )
        run_to_exit_code(_with(open_fabric(state, options, announce=True), command, others))

    return run


def complete_names(*parts: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Shell completion for names of `functions`, `triggers` or both. Gives up on a fabric that is slow to answer."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        given = {name: context.params.get(name) for name in ("context", "kubeconfig", "namespace")}

        async def found() -> list[str]:
            opened = open_fabric(context.params.get("state"), ClusterOptions(**given), announce=False)
            async with asyncio.timeout(_COMPLETION_SECONDS), opened as fabric:
                value = (await fabric.overview(None, False)).value
            return sorted({one["name"] for part in parts for one in value[part]})

        try:
            return [name for name in asyncio.run(found()) if name.startswith(incomplete)]
        except (FabricUnreachable, Refused, TimeoutError, click.ClickException):
            return []

    return complete


def run_to_exit_code(main: Any) -> None:
    """Runs the coroutine and exits with the code that it returns, 1 for Refused, or 4 for FabricUnreachable."""
    try:
        sys.exit(asyncio.run(main))
    except FabricUnreachable as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(4)
    except Refused as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def open_fabric(
    state: Path | None, options: ClusterOptions, *, announce: bool
) -> AbstractAsyncContextManager[FabricClient]:
    """The fabric that the options name; by default the one that runs here, else the kubeconfig's cluster.

    `announce`: if it is a cluster that no option named, say which one on standard error.
    """
    is_default = options == ClusterOptions()
    if is_default and (state is not None or _is_running(DEFAULT_STATE) or not has_cluster()):
        from kubeirq.on_machine.client import MachineClient

        return MachineClient(state or DEFAULT_STATE)
    require_cluster_extra()
    from kubeirq.on_cluster.client import open_cluster

    return open_cluster(
        options.context,
        options.kubeconfig,
        options.namespace,
        options.system_namespace,
        announce=announce and is_default,
    )


def require_cluster_extra() -> None:
    """Raises an error that says how to install the Kubernetes client, if it is not installed."""
    import importlib.util

    if importlib.util.find_spec("kubernetes") is None:
        raise click.ClickException(
            "the Kubernetes client is not installed, and this command needs it; run: pip install 'kubeirq[cluster]'"
        )


async def _with(
    opened: AbstractAsyncContextManager[FabricClient], command: Callable[..., Awaitable[int]], options: dict[str, Any]
) -> int:
    async with opened as fabric:
        return await command(fabric, **options)


def _is_running(state: Path) -> bool:
    """Whether a fabric listens on the state folder's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(state / "admin.sock"))
        except OSError:
            return False
    return True
