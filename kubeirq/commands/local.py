"""The commands that run a fabric on this machine: dev and serve."""

import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".kubeirq"),
    envvar="KUBEIRQ_STATE",
    show_default=True,
    help="The folder for all data: logs, the brokers' data, dead letters.",
)
SECRETS = click.option(
    "--secrets",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder with Secrets: a subfolder for each Secret, with a file for each key.",
)


@click.command()
@PATHS
@STATE
@SECRETS
@click.option("--http-port", type=int, help="The port of HTTP triggers. Default: 8080, or a free one if 8080 is taken.")
@click.option("--debug", metavar="FUNCTION", help="Run this function under debugpy, without time-outs.")
def dev(paths: tuple[Path, ...], state: Path, secrets: Path | None, http_port: int | None, debug: str | None) -> None:
    """Run manifests on this machine and reload them on change.

    PATHS are files and folders. `dev` shows each event. Ctrl-C stops.
    """
    from kubeirq.on_machine.run import dev as run

    _run(run(paths, state=state, http_port=http_port, secrets=secrets, debug=debug))


@click.command()
@PATHS
@STATE
@SECRETS
@click.option("--http-host", default="127.0.0.1", show_default=True, help="The address of HTTP triggers.")
@click.option(
    "--http-port", type=int, default=8080, show_default=True, help="The port of HTTP triggers; 0 takes a free one."
)
@click.option(
    "--metrics-host", default="127.0.0.1", show_default=True, help="The address of /metrics, /healthz and /readyz."
)
@click.option(
    "--metrics-port", type=int, default=9090, show_default=True, help="The port of /metrics; 0 takes a free one."
)
def serve(
    paths: tuple[Path, ...],
    state: Path,
    secrets: Path | None,
    http_host: str,
    http_port: int,
    metrics_host: str,
    metrics_port: int,
) -> None:
    """Run manifests on a server without a cluster.

    PATHS are files and folders. `serve` reloads them only on SIGHUP. It logs JSON lines, and serves metrics and health
    on a port.
    """
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
    import uvloop  # only these two commands need it

    # Events create much garbage and few reference cycles. At Python's default thresholds, the search for cycles takes a
    # seventh of the time
    gc.set_threshold(10_000, 20, 100)
    sys.exit(uvloop.run(main))
