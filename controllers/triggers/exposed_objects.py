"""The Ingresses and HTTPRoutes of HTTP triggers that bypass the gateway: writes them, and reports their state."""

from collections.abc import Callable, Sequence

from controllers.cluster.api import Api, Object, Refused, plural_of
from controllers.cluster.conditions import Condition
from controllers.cluster.operator import Event, Watch
from controllers.cluster.owned_objects import Contested, Key, OwnedObjects, key_of, reference_of
from controllers.functions.callers import Peer
from controllers.triggers.exposure import KINDS, TRIGGER_LABEL, callers_policy_of, objects_of
from controllers.triggers.exposure_status import status_of
from trigger_sources.http.source import HTTPTrigger
from trigger_sources.source import TriggerSource


def is_exposed(spec: TriggerSource) -> bool:
    """Whether requests bypass the gateway, so that the trigger has no flow."""
    return isinstance(spec, HTTPTrigger) and spec.expose is not None


def gateway_address(gateway_url: str, name: str, spec: TriggerSource) -> Object:
    """The status field with the trigger's address at the gateway. Empty for other kinds than HTTPTrigger."""
    if not isinstance(spec, HTTPTrigger):
        return {}
    path = f"{gateway_url}{spec.path or f'/{name}'}"
    return {"address": f"{path} (host {spec.host})" if spec.host else path}


class ExposedObjects:
    """The Ingress or HTTPRoute of each exposed trigger, and the way to its function. Lives in one event loop.

    `callers` are the peers that may call these functions, all if it is empty. None: no NetworkPolicy closes functions.
    """

    def __init__(self, api: Api, *, namespace: str | None = None, callers: Sequence[Peer] | None = None) -> None:
        self._owned = OwnedObjects(api, KINDS, label=TRIGGER_LABEL, namespace=namespace)
        self._callers = callers
        self._refused: dict[Key, Refused | Contested] = {}

    def watches(self, on_change: Callable[[Key], None]) -> list[Watch]:
        """The watches of all kinds. `on_change` gets the owner of each changed object."""

        def handler(event: Event) -> None:
            on_change(self._owned.observe(event))

        found = []
        for api_version, kind in KINDS:
            group, _, version = api_version.partition("/")
            found.append(Watch(group, version, plural_of(kind), handler, TRIGGER_LABEL))
        return found

    async def refresh(self) -> bool:
        """Lists all objects. Returns whether the API server let it list every kind."""
        return await self._owned.refresh()

    async def reconcile(self, trigger: Object, spec: TriggerSource) -> None:
        """Writes the desired object, and removes others. Raises Refused, which `status_of` then reports."""
        key = key_of(trigger)
        is_deleted = "deletionTimestamp" in trigger["metadata"]
        wanted = objects_of(trigger["metadata"], spec) if isinstance(spec, HTTPTrigger) and not is_deleted else []
        if wanted and self._callers is not None and isinstance(spec, HTTPTrigger):
            wanted.append(callers_policy_of(trigger["metadata"], spec, self._callers))
        try:
            await self._owned.ensure(trigger, wanted)
        except Contested as contested:
            self._refused[key] = contested
        except Refused as refused:
            self._refused[key] = refused
            raise
        else:  # not before: the status is read at any time
            self._refused.pop(key, None)
        await self._owned.remove(self._owned.unwanted(trigger, wanted))

    def status_of(self, trigger: Object, spec: TriggerSource, function_down: str) -> tuple[Object, list[Condition]]:
        """The status fields and the conditions of an exposed trigger."""
        assert isinstance(spec, HTTPTrigger)
        key = key_of(trigger)
        (wanted,) = objects_of(trigger["metadata"], spec)
        live = self._owned.get(key, *reference_of(wanted))
        return status_of(trigger["metadata"], spec, live, self._refused.get(key), function_down)

    def forget(self, key: Key) -> None:
        """Drops the entries of a deleted trigger. Owner references delete its objects."""
        self._owned.forget(key)
        self._refused.pop(key, None)
