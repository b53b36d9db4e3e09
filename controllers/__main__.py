"""`python -m controllers functions` or `trigger NAME`: one controller as a process, configured by its environment."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping

import uvloop
from kubernetes.aio.config import ConfigException

from controllers.cluster.api import Api, api
from controllers.cluster.leases import Slots
from controllers.cluster.operator import beside, operate
from controllers.functions.controller import FunctionController
from controllers.functions.workload import Settings
from controllers.triggers import process as trigger_process
from trigger_sources.observe.endpoint import metrics_endpoint
from trigger_sources.observe.logs import JsonLines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m controllers", description=__doc__)
    parser.add_argument("controller", choices=["functions", "trigger"])
    parser.add_argument("name", nargs="?", help="of a trigger's kind: http, cron, kafka, nats, or a plugin's")
    arguments = parser.parse_args()
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # it warns that signals are not its own
    try:
        if arguments.controller == "trigger":
            if arguments.name is None:
                parser.error("trigger: which one? http, cron, kafka, nats, or a plugin's")
            uvloop.run(trigger_process.run(arguments.name, trigger_process.settings_from(os.environ)))
        else:
            uvloop.run(_functions(os.environ))
    except (ValueError, ConfigException) as error:
        print(f"controllers: {error}", file=sys.stderr)  # noqa: T201  for whoever started it by hand
        return 1
    return 0


def settings_from(environment: Mapping[str, str]) -> Settings:
    """What the chart says by environment variables. Raises ValueError that names the variable."""
    image = environment.get("KUBEIRQ_RUNTIME_IMAGE")
    if not image:
        raise ValueError("KUBEIRQ_RUNTIME_IMAGE: the image with the runtimes is needed; the chart sets it")
    return Settings(
        runtime_image=image,
        images=_images_from(environment.get("KUBEIRQ_IMAGES") or "{}"),
        image_pull_policy=environment.get("KUBEIRQ_IMAGE_PULL_POLICY", "IfNotPresent"),
        package_index=environment.get("KUBEIRQ_PACKAGE_INDEX"),
        extra_package_indexes=tuple(environment.get("KUBEIRQ_EXTRA_PACKAGE_INDEXES", "").split()),
        trusted_package_hosts=tuple(environment.get("KUBEIRQ_TRUSTED_PACKAGE_HOSTS", "").split()),
    )


def _images_from(text: str) -> dict[str, str]:
    """Images by runtime."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"KUBEIRQ_IMAGES: no JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(image, str) and image for image in found.values()):
        raise ValueError(
            'KUBEIRQ_IMAGES: images by runtime are needed, as in {"python3.11": "registry.example/python:3.11"}'
        )
    return found


async def _functions(environment: Mapping[str, str]) -> None:
    settings, namespace = settings_from(environment), environment.get("KUBEIRQ_WATCH_NAMESPACE") or None
    # Leases have connections of their own: a renewal waits behind nothing
    async with api() as client, api() as leases:
        controller = FunctionController(client, settings, namespace=namespace)

        def waiting() -> list[str]:
            return [] if controller.synced.is_set() else ["the functions are not known yet"]

        slots = _leader(leases, controller, environment)
        port = trigger_process.number(environment, "KUBEIRQ_PORT", 9090)
        async with metrics_endpoint("0.0.0.0", port, readings=lambda: (), waiting=waiting):
            holding = () if slots is None else (slots.run(),)
            await operate(controller.watches(), lambda: beside(controller.run(), *holding), namespace=namespace)


def _leader(client: Api, controller: FunctionController, environment: Mapping[str, str]) -> Slots | None:
    """The Lease of the replica that writes; None: there are no other replicas."""
    release = environment.get("KUBEIRQ_NAMESPACE")
    if not release:
        return None

    async def let_go(_: int) -> None:
        await controller.queue.quiet()  # what waits does nothing from now on

    slots = Slots(
        client,
        namespace=release,
        name="kubeirq-functions",
        identity=trigger_process.replica_of(environment),
        let_go=let_go,
        changed=controller.leader_changed,
    )
    controller.leads = lambda: bool(slots.held)
    return slots


if __name__ == "__main__":
    sys.exit(main())
