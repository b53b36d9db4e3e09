"""Runs one controller: `python -m controllers functions`, or `trigger NAME`. Environment variables configure it."""

import argparse
import gc
import json
import logging
import os
import sys
from collections.abc import Coroutine, Iterable, Mapping
from itertools import chain
from typing import Any

import uvloop
from kubernetes.aio.config import ConfigException

from controllers.cluster.api import Api, api
from controllers.cluster.leases import SharedLeases
from controllers.cluster.metrics import controller_metrics
from controllers.cluster.operator import operate, run_concurrently
from controllers.functions.callers import callers_from
from controllers.functions.controller import FunctionController
from controllers.functions.pod_template import Settings
from controllers.triggers import process as trigger_process
from trigger_sources.observe.endpoint import metrics_endpoint
from trigger_sources.observe.logs import JsonLines
from trigger_sources.observe.metrics import Metric


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m controllers", description=__doc__)
    parser.add_argument("controller", choices=["functions", "trigger"])
    parser.add_argument("name", nargs="?", help="the kind of trigger: http, cron, kafka, nats, or the kind of a plugin")
    arguments = parser.parse_args()
    # With thousands of triggers, a search of all objects for reference cycles takes half a second: it has to be rare
    gc.set_threshold(10_000, 20, 100)
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(JsonLines())
    try:
        logging.basicConfig(level=log_level_from(os.environ), handlers=[lines])
        logging.getLogger("kopf").setLevel(logging.WARNING)
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # no warning that it handles no signals
        if arguments.controller == "trigger":
            if arguments.name is None:
                parser.error("trigger: name the kind: http, cron, kafka, nats, or the kind of a plugin")
            uvloop.run(trigger_process.run(arguments.name, trigger_process.settings_from(os.environ)))
        else:
            uvloop.run(_functions(os.environ))
    except (ValueError, ConfigException) as error:
        print(f"controllers: {error}", file=sys.stderr)  # noqa: T201  for a person who starts it by hand
        return 1
    return 0


def log_level_from(environment: Mapping[str, str]) -> int:
    """One of `logging`'s levels. Raises ValueError, which names the variable."""
    name = environment.get("KUBEIRQ_LOG_LEVEL") or "info"
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if name not in levels:
        raise ValueError(f"KUBEIRQ_LOG_LEVEL: {name!r} is not one of {', '.join(levels)}")
    return levels[name]


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Reads the environment variables that the chart sets. Raises ValueError, which names the variable."""
    image = environment.get("KUBEIRQ_RUNTIME_IMAGE")
    if not image:
        raise ValueError("KUBEIRQ_RUNTIME_IMAGE is empty; set it to the runtimes image, as the chart does")
    return Settings(
        runtime_image=image,
        images=_images_from(environment.get("KUBEIRQ_IMAGES") or "{}"),
        release=environment.get("KUBEIRQ_RELEASE", ""),
        image_pull_policy=environment.get("KUBEIRQ_IMAGE_PULL_POLICY", "IfNotPresent"),
        package_index=environment.get("KUBEIRQ_PACKAGE_INDEX"),
        extra_package_indexes=tuple(environment.get("KUBEIRQ_EXTRA_PACKAGE_INDEXES", "").split()),
        callers=callers_from(environment.get("KUBEIRQ_CALLERS", ""), "KUBEIRQ_CALLERS"),
        trusted_package_hosts=tuple(environment.get("KUBEIRQ_TRUSTED_PACKAGE_HOSTS", "").split()),
        init_resources=_object_from(environment, "KUBEIRQ_INIT_RESOURCES"),
        has_fixed_user=environment.get("KUBEIRQ_FIXED_USER") != "false",
    )


def _object_from(environment: Mapping[str, str], name: str) -> dict[str, Any]:
    """A JSON object; an empty one if the variable is not set."""
    try:
        found = json.loads(environment.get(name) or "{}")
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: must be a JSON object")
    return found


def _images_from(text: str) -> dict[str, str]:
    """Parses the images by runtime."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"KUBEIRQ_IMAGES: not valid JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(image, str) and image for image in found.values()):
        raise ValueError(
            'KUBEIRQ_IMAGES: must map runtimes to images, such as {"python3.11": "registry.example/python:3.11"}'
        )
    return found


async def _functions(environment: Mapping[str, str]) -> None:
    settings, namespace = settings_from(environment), environment.get("KUBEIRQ_WATCH_NAMESPACE") or None
    # Leases have their own connections, so that a renewal never waits for another request
    async with api() as client, api() as leases:
        controller = FunctionController(client, settings, namespace=namespace)

        def waiting() -> list[str]:
            return [] if controller.synced.is_set() else ["the functions are not listed yet"]

        lease = _leader_lease(leases, controller, environment)
        port = trigger_process.number(environment, "KUBEIRQ_PORT", 9090)

        def metrics() -> Iterable[Metric]:
            return chain(controller_metrics(), controller.metrics())

        async with metrics_endpoint("0.0.0.0", port, readings=lambda: (), waiting=waiting, metrics=metrics):

            def work() -> Coroutine[Any, Any, None]:
                return run_concurrently(controller.run(), *(() if lease is None else (lease.run(),)))

            await operate(controller.watches(), work, namespace=namespace)


def _leader_lease(client: Api, controller: FunctionController, environment: Mapping[str, str]) -> SharedLeases | None:
    """The Lease of the leader, the replica that writes. None if there are no other replicas."""
    release = environment.get("KUBEIRQ_NAMESPACE")
    if not release:
        return None

    async def drain(_: int) -> None:
        await controller.queue.wait_for_running()  # a key that waits does nothing once this replica is not the leader

    lease = SharedLeases(
        client,
        namespace=release,
        name="kubeirq-functions",
        identity=trigger_process.replica_of(environment),
        drain=drain,
        on_change=controller.leader_changed,
    )
    controller.is_leader = lambda: bool(lease.held)
    return lease


if __name__ == "__main__":
    sys.exit(main())
