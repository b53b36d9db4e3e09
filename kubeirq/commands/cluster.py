"""The commands that bring resources to a cluster: deploy, render, crds."""

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubeirq.commands.fabrics import ClusterOptions, cluster_options, require_cluster_extra, run_to_exit_code

if TYPE_CHECKING:
    from kubeirq.on_cluster.deploy import How
    from trigger_sources.problems import Problem

PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
SECRETS = click.option(
    "--secrets",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for each Secret, with a file for each of its keys: they are sent, too.",
)


@click.command()
@PATHS
@SECRETS
@cluster_options
@click.option("--timeout", type=float, default=180, show_default=True, help="So many seconds for all to be Ready.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Whether to wait until all are Ready.")
@click.option("--dry-run", is_flag=True, help="Ask the server what it would do, and change nothing.")
@click.option("--force", is_flag=True, help="Take over fields that others have set since.")
def deploy(
    paths: tuple[Path, ...], secrets: Path | None, options: ClusterOptions, timeout: float, wait: bool, dry_run: bool,
    force: bool,
) -> None:  # fmt: skip
    """Bring the resources of files and folders to a cluster, with their code, and wait until they are Ready.

    What the files do not mention is left alone. Exit 1 if anything is refused or not Ready in time.
    """
    require_cluster_extra()
    from kubeirq.on_cluster.deploy import How

    how = How(dry_run, force, timeout if wait else None, options.namespace)
    run_to_exit_code(_deploy(paths, secrets, options, how))


@click.command()
@PATHS
@SECRETS
@click.option("-n", "--namespace", metavar="NS", help="Of resources that name none; unset: none is written.")
@click.option("--output", "-o", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render(paths: tuple[Path, ...], secrets: Path | None, namespace: str | None, output: str) -> None:
    """Print what `deploy` would send, code included. Needs no cluster."""
    from kubeirq.manifests import load
    from kubeirq.on_cluster.bundle import objects_of
    from kubeirq.output.texts import yaml_of

    resources, problems = load(paths, secrets, namespace=namespace or "default", whole=False)
    _stop_at(problems)
    objects, problems = objects_of(resources, with_namespace=namespace is not None)
    _stop_at(problems)
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
    else:
        click.echo(yaml_of(objects), nl=False)


@click.command()
@click.option("--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option(
    "--chart", type=click.Path(path_type=Path, exists=True), help="Write the built-in kinds into this Helm chart."
)
def crds(output: str, chart: Path | None) -> None:
    """Print the CustomResourceDefinitions of Function and of every trigger kind that is installed, plugins' too."""
    from controllers.definitions import crds as generated
    from controllers.definitions.schemas import NotStructural
    from trigger_sources.registry import BrokenPlugin

    try:
        if chart is not None:
            for name, text in generated.chart_files().items():
                (chart / "templates" / "crds" / name).write_text(text)
            return
        found = generated.crds()
    except (BrokenPlugin, NotStructural) as error:
        raise click.ClickException(str(error)) from error
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": found}, indent=2))
    else:
        click.echo(generated.yaml_of(found), nl=False)


async def _deploy(paths: tuple[Path, ...], secrets: Path | None, options: ClusterOptions, how: "How") -> int:
    from kubeirq.on_cluster.connection import cluster
    from kubeirq.on_cluster.deploy import Problems, deploy

    async with cluster(options.context, options.kubeconfig, options.namespace) as found:
        try:
            well = await deploy(found, paths, secrets, how, click.echo, partial(click.echo, err=True))
        except Problems as problems:
            click.echo(str(problems), err=True)
            return 1
        return 0 if well else 1


def _stop_at(problems: Iterable["Problem"]) -> None:
    """Says them all and exits with 1, if there are any."""
    lines = [str(problem) for problem in sorted(set(problems))]
    for line in lines:
        click.echo(line, err=True)
    if lines:
        sys.exit(1)
