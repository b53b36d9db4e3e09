"""The options that say which fabric a command uses: the one of this machine, or a cluster's."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="KUBEIRQ_STATE",
    help="Use the fabric on this machine with this state folder. Default: .kubeirq, if a fabric runs on it.",
)
SYSTEM_NAMESPACE = click.option(
    "--system-namespace",
    metavar="NS",
    help="The namespace of the kubeirq controllers. Default: kubeirq looks in all namespaces.",
)


def _complete_contexts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from kubeirq.on_cluster.kubeconfig import contexts

    return [name for name in contexts(context.params.get("kubeconfig")) if name.startswith(incomplete)]


_CLUSTER = (
    click.option(
        "--context",
        metavar="NAME",
        shell_complete=_complete_contexts,
        help="Use the cluster of this kubeconfig context.",
    ),
    click.option(
        "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Use the cluster of this kubeconfig file."
    ),
    click.option(
        "-n", "--namespace", metavar="NS", help="Use the cluster, in this namespace. Default: the context's namespace."
    ),
)


CLUSTER_OPTIONS = frozenset({"context", "kubeconfig", "namespace", "system_namespace"})


@dataclass(frozen=True)
class ClusterOptions:
    """The cluster that the options name."""

    context: str | None = None
    kubeconfig: Path | None = None
    namespace: str | None = None
    system_namespace: str | None = None


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the cluster's options to a command, and passes them to it as `options`."""

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
