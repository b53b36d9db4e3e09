"""The commands that send resources to a cluster, or print them: deploy, render, crds."""

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubeirq.commands.fabric_options import ClusterOptions, cluster_options
from kubeirq.commands.open_fabric import require_cluster_extra, run_to_exit_code

if TYPE_CHECKING:
    from kubeirq.on_cluster.deploy import DeployOptions
    from trigger_sources.problems import Problem

PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
SECRETS = click.option(
    "--secrets",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder with Secrets to send too: a subfolder for each Secret, with a file for each key.",
)


@click.command()
@PATHS
@SECRETS
@cluster_options
@click.option("--timeout", type=float, default=180, show_default=True, help="Wait at most so many seconds.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until all resources are Ready.")
@click.option("--dry-run", is_flag=True, help="Ask the API server what would change, and change nothing.")
@click.option("--force", is_flag=True, help="Overwrite fields that others have set since the last deploy.")
def deploy(
    paths: tuple[Path, ...], secrets: Path | None, options: ClusterOptions, timeout: float, wait: bool, dry_run: bool,
    force: bool,
) -> None:  # fmt: skip
    """Apply manifests and code to a cluster.

    Waits until everything is Ready. PATHS are files and folders. Resources on the cluster that are not in them stay as
    they are. Exit code 1 means that the cluster refused a resource, or that one did not become Ready in time.
    """
    require_cluster_extra()
    from kubeirq.on_cluster.deploy import DeployOptions

    deploy_options = DeployOptions(dry_run, force, timeout if wait else None, options.namespace)
    run_to_exit_code(_deploy(paths, secrets, options, deploy_options))


@click.command()
@PATHS
@SECRETS
@click.option(
    "-n",
    "--namespace",
    metavar="NS",
    help="The namespace of resources whose file gives none. Default: print them without a namespace.",
)
@click.option(
    "--output", "-o", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="The output format."
)
def render(paths: tuple[Path, ...], secrets: Path | None, namespace: str | None, output: str) -> None:
    """Print the objects that `deploy` applies, code included.

    This command needs no cluster.
    """
    from kubeirq.manifests.loading import load
    from kubeirq.on_cluster.bundle import objects_of
    from kubeirq.output.formats import to_yaml

    resources, problems = load(paths, secrets, namespace=namespace or "default", complete=False)
    _exit_on(problems)
    objects, problems = objects_of(resources, with_namespace=namespace is not None)
    _exit_on(problems)
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
    else:
        click.echo(to_yaml(objects), nl=False)


@click.command()
@click.option(
    "--output", "-o", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="The output format."
)
@click.option(
    "--chart",
    type=click.Path(path_type=Path, exists=True),
    help="Write the definitions of the built-in kinds into this Helm chart, and print nothing.",
)
def crds(output: str, chart: Path | None) -> None:
    """Print the CustomResourceDefinitions.

    There is one for Function and one for each installed kind of trigger, including plugins.
    """
    require_cluster_extra()
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


async def _deploy(
    paths: tuple[Path, ...], secrets: Path | None, options: ClusterOptions, deploy_options: "DeployOptions"
) -> int:
    from kubeirq.manifests.resources import InvalidManifests
    from kubeirq.on_cluster.connection import connect
    from kubeirq.on_cluster.deploy import deploy

    async with connect(options.context, options.kubeconfig, options.namespace) as cluster:
        try:
            is_success = await deploy(
                cluster, paths, secrets, deploy_options, click.echo, partial(click.echo, err=True)
            )
        except InvalidManifests as problems:
            click.echo(str(problems), err=True)
            return 1
        return 0 if is_success else 1


def _exit_on(problems: Iterable["Problem"]) -> None:
    """Prints the problems and exits with 1, if there are any."""
    lines = [str(problem) for problem in sorted(set(problems))]
    for line in lines:
        click.echo(line, err=True)
    if lines:
        sys.exit(1)
