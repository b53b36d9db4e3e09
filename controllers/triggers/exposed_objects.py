"""HTTP triggers past the gateway: their Ingresses and HTTPRoutes, made, kept so, and told about."""

from collections.abc import Callable

from controllers.cluster.api import Api, Object, Refused, plural_of
from controllers.cluster.conditions import Condition
from controllers.cluster.operator import Event, Watch
from controllers.cluster.owned_objects import Key, OwnedObjects, key_of, reference_of
from controllers.triggers.exposure import KINDS, TRIGGER_LABEL, objects_of, status_of
from trigger_sources.http.source import HTTPTrigger
from trigger_sources.source import TriggerSource


def is_exposed(spec: TriggerSource) -> bool:
    """Whether its requests go past the gateway: then nothing of it runs here."""
    return isinstance(spec, HTTPTrigger) and spec.expose is not None


def served_at(gateway_url: str, name: str, spec: TriggerSource) -> Object:
    """The status' field of a trigger that the gateway serves; none of other kinds."""
    if not isinstance(spec, HTTPTrigger):
        return {}
    path = f"{gateway_url}{spec.path or f'/{name}'}"
    return {"address": f"{path} (host {spec.host})" if spec.host else path}


class Exposures:
    """What leads requests to the functions of exposed triggers. Lives in one event loop."""

    def __init__(self, api: Api, *, namespace: str | None = None) -> None:
        self._owned = OwnedObjects(api, KINDS, label=TRIGGER_LABEL, namespace=namespace)
        self._refused: dict[Key, Refused] = {}

    def watches(self, seen: Callable[[Key], None]) -> list[Watch]:
        """Of all of them; `seen` is told whose changed."""

        def heard(event: Event) -> None:
            seen(self._owned.observe(event))

        found = []
        for api_version, kind in KINDS:
            group, _, version = api_version.partition("/")
            found.append(Watch(group, version, plural_of(kind), heard, TRIGGER_LABEL))
        return found

    async def refresh(self) -> None:
        """Lists them all. Raises what the API server raises."""
        await self._owned.refresh()

    async def make(self, trigger: Object, spec: TriggerSource) -> None:
        """What there is becomes what is wanted, also nothing. Raises Refused, and remembers it for `told`."""
        key = key_of(trigger)
        wanted = objects_of(trigger["metadata"], spec) if isinstance(spec, HTTPTrigger) else []
        self._refused.pop(key, None)
        try:
            await self._owned.ensure(trigger, wanted)
        except Refused as refused:
            self._refused[key] = refused
            raise
        for found in self._owned.unwanted(trigger, wanted):
            await self._owned.remove(key, found)

    def told(self, trigger: Object, spec: TriggerSource, function_down: str) -> tuple[Object, list[Condition]]:
        """The status' fields and the conditions of an exposed trigger."""
        assert isinstance(spec, HTTPTrigger)
        key = key_of(trigger)
        (wanted,) = objects_of(trigger["metadata"], spec)
        live = self._owned.get(key, *reference_of(wanted))
        return status_of(trigger["metadata"], spec, live, self._refused.get(key), function_down)

    def forget(self, key: Key) -> None:
        """The trigger is gone; owner references delete what it had."""
        self._owned.forget(key)
        self._refused.pop(key, None)
