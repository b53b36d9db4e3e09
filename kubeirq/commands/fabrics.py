"""Which fabric a command asks: the one of this machine, or a cluster's."""

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kubeirq.fabric_client import Asked, NotRunning, Refused
from kubeirq.on_cluster.kubeconfig import has_cluster

DEFAULT_STATE = Path(".kubeirq")
_COMPLETION_SECONDS = 2

STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="KUBEIRQ_STATE",
    help="Ask the fabric of this machine on this folder; .kubeirq unless set.",
)
SYSTEM_NAMESPACE = click.option(
    "--system-namespace", metavar="NS", help="Where kubeirq is installed on the cluster; unset: it is looked for."
)


def _contexts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from kubeirq.on_cluster.kubeconfig import contexts

    return [name for name in contexts(context.params.get("kubeconfig")) if name.startswith(incomplete)]


_CLUSTER = (
    click.option(
        "--context", metavar="NAME", shell_complete=_contexts, help="Ask the cluster of this context of the kubeconfig."
    ),
    click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Ask this file's cluster."),
    click.option("-n", "--namespace", metavar="NS", help="Ask the cluster, in this namespace; unset: the context's."),
)


@dataclass(frozen=True)
class ClusterOptions:
    """What was said of the cluster to ask."""

    context: str | None = None
    kubeconfig: Path | None = None
    namespace: str | None = None
    system_namespace: str | None = None


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, and hands them on as `options`."""

    @functools.wraps(command)
    def run(
        *arguments: Any, context: str | None, kubeconfig: Path | None, namespace: str | None,
        system_namespace: str | None = None, **others: Any,
    ) -> Any:  # fmt: skip
        options = ClusterOptions(context, kubeconfig, namespace, system_namespace)
        return command(*arguments, options=options, **others)

    for option in reversed(_CLUSTER):
        run = option(run)
    return run


def talks(work: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """Opens the fabric that a command asks, hands it over, and turns the end into an exit code."""

    @STATE
    @cluster_options
    @SYSTEM_NAMESPACE
    @functools.wraps(work)
    def run(state: Path | None, options: ClusterOptions, **others: Any) -> None:
        is_given = click.get_current_context().get_parameter_source("state") == ParameterSource.COMMANDLINE
        if is_given and options != ClusterOptions():
            raise click.UsageError(
                "--state is for the fabric of this machine, the others are for a cluster: one of them"
            )
        run_to_exit_code(_with(chosen(state, options, say=True), work, others))

    return run


def names(*parts: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes names of `functions`, of `triggers`, or of both; of no fabric that takes long to answer."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        given = {name: context.params.get(name) for name in ("context", "kubeconfig", "namespace")}

        async def found() -> list[str]:
            opened = chosen(context.params.get("state"), ClusterOptions(**given), say=False)
            async with asyncio.timeout(_COMPLETION_SECONDS), opened as asked:
                value = (await asked.overview(None, False)).value
            return sorted({one["name"] for part in parts for one in value[part]})

        try:
            return [name for name in asyncio.run(found()) if name.startswith(incomplete)]
        except (NotRunning, Refused, TimeoutError, click.ClickException):
            return []

    return complete


async def _with(
    opened: AbstractAsyncContextManager[Asked], work: Callable[..., Awaitable[int]], options: dict[str, Any]
) -> int:
    async with opened as asked:
        return await work(asked, **options)


def run_to_exit_code(main: Any) -> None:
    """Runs the coroutine and exits: with what it returns, 1 for Refused, 4 for NotRunning."""
    try:
        sys.exit(asyncio.run(main))
    except NotRunning as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(4)
    except Refused as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def chosen(state: Path | None, options: ClusterOptions, *, say: bool) -> AbstractAsyncContextManager[Asked]:
    """As the options say; without any the fabric that runs here, else the cluster of the kubeconfig.

    `say`: that it is the cluster, where nobody said so.
    """
    nobody_said = options == ClusterOptions()
    if nobody_said and (state is not None or _runs(DEFAULT_STATE) or not has_cluster()):
        from kubeirq.on_machine.client import OnMachine

        return OnMachine(state or DEFAULT_STATE)
    require_cluster_extra()
    from kubeirq.on_cluster.fabric import on_cluster

    return on_cluster(
        options.context, options.kubeconfig, options.namespace, options.system_namespace, say=say and nobody_said
    )


def require_cluster_extra() -> None:
    """Raises what a person who has no Kubernetes client can act on."""
    import importlib.util

    if importlib.util.find_spec("kubernetes") is None:
        raise click.ClickException("a cluster needs the extra: pip install 'kubeirq[cluster]'")


def _runs(state: Path) -> bool:
    """Whether somebody listens there."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(state / "admin.sock"))
        except OSError:
            return False
    return True
