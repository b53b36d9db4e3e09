"""The commands that run a fabric on this machine: dev and serve."""

import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".kubeirq"),
    envvar="KUBEIRQ_STATE",
    show_default=True,
    help="The folder that keeps everything: logs, brokers' data, dead letters.",
)
SECRETS = click.option(
    "--secrets",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder for each Secret, with a file for each of its keys.",
)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@STATE
@SECRETS
@click.option("--http-port", type=int, help="The HTTP triggers' port; unset: 8080, or a free one if that is taken.")
@click.option("--debug", metavar="FUNCTION", help="Run this function under debugpy, without time-outs.")
def dev(paths: tuple[Path, ...], state: Path, secrets: Path | None, http_port: int | None, debug: str | None) -> None:
    """Run the resources of files and folders, show each event, reload on change."""
    from kubeirq.on_machine.run import dev as run

    _run(run(paths, state=state, http_port=http_port, secrets=secrets, debug=debug))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@STATE
@SECRETS
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Where the HTTP triggers listen.")
@click.option("--http-port", type=int, default=8080, show_default=True, help="Their port; 0: any free one.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where /metrics and /healthz listen.")
@click.option("--metrics-port", type=int, default=9090, show_default=True, help="Their port; 0: any free one.")
def serve(
    paths: tuple[Path, ...],
    state: Path,
    secrets: Path | None,
    http_host: str,
    http_port: int,
    metrics_host: str,
    metrics_port: int,
) -> None:
    """The same for a server without a cluster: no reload but on SIGHUP, metrics and health on a port."""
    from kubeirq.on_machine.run import serve as run

    _run(
        run(
            paths,
            state=state,
            http_host=http_host,
            http_port=http_port,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            secrets=secrets,
        )
    )


def _run(main: Coroutine[Any, Any, int]) -> None:
    import uvloop  # only where a fabric runs

    # events make much garbage and few cycles: looking for those as often as Python does takes a seventh of the time
    gc.set_threshold(10_000, 20, 100)
    sys.exit(uvloop.run(main))
