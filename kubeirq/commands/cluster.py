"""The commands about a cluster."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option(
    "--chart", type=click.Path(path_type=Path, exists=True), help="Write the built-in kinds into this Helm chart."
)
def crds(output: str, chart: Path | None) -> None:
    """Print the CustomResourceDefinitions of Function and of every trigger kind that is installed, plugins' too."""
    from controllers import crds as generated
    from controllers.schemas import NotStructural
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
