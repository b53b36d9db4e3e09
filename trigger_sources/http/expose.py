"""Ways for an HTTP trigger's requests to reach its function on a cluster without the fabric's gateway. Pure.

A spec must not ask for features of the gateway then: `problems_of` finds them, and a cluster's definitions refuse them
with the same messages.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trigger_sources.source import TriggerSource
from trigger_sources.spec import DeliveryPolicy, Spec

# The fields that an Ingress or an HTTPRoute can express
FIELDS = frozenset({"target", "host", "path", "methods", "expose"})
# A caller that waits can repeat its request itself, hence the single attempt
DELIVERIES = (DeliveryPolicy(), DeliveryPolicy(attempts=1))
# Characters that no proxy encodes or decodes, and at the end perhaps a parameter for all following segments
PATH = r"^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*(/|/\{[^/{}]+\.\.\.\})?$"
REST = "...}"

ONE_FUNCTION = "function: with expose requests go to one function's Service: its name is needed, no selector and no url"
PATH_RULE = (
    "path: an Ingress or HTTPRoute takes only a path of characters that need no encoding, perhaps with {name...} at its"
    " end; change it, or leave out expose"
)
NO_METHODS = "methods: an Ingress lets every method pass; leave out methods, or use expose.httpRoute"
REST_IS_A_PREFIX = "expose.ingress.pathType: {name...} at the path's end is a Prefix; leave out pathType"
ONE_HOST = "host and expose.httpRoute.hostnames: one of them"


class IngressTls(Spec):
    """The certificate that the Ingress shows to TLS clients."""

    secret_name: str = Field(min_length=1, description="A Secret of the trigger's namespace with tls.crt and tls.key")


class IngressExposure(Spec):
    """Through an Ingress, which lets every method pass."""

    class_name: str | None = Field(None, min_length=1, description="The IngressClass; unset: the cluster's default")
    annotations: dict[str, str] = Field(
        default_factory=dict, description="The Ingress' annotations, for its controller"
    )
    tls: IngressTls | None = Field(None, description="TLS at the Ingress; unset: none")
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"] | None = Field(
        None, description="The path's type; unset: Prefix for a path with {name...} at its end, Exact for any other"
    )


class ParentRef(Spec):
    """A Gateway of the Gateway API, or one of its listeners."""

    name: str = Field(min_length=1, max_length=253, description="The Gateway's name")
    namespace: str | None = Field(
        None, min_length=1, max_length=63, description="The Gateway's namespace; unset: the trigger's own"
    )
    section_name: str | None = Field(
        None, min_length=1, max_length=253, description="The name of a listener; unset: all that fit"
    )
    port: int | None = Field(None, ge=1, le=65_535, description="Only listeners on this port")


Hostname = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
    ),
]


class HTTPRouteExposure(Spec):
    """Through an HTTPRoute of the Gateway API, which has to be installed."""

    parent_refs: list[ParentRef] = Field(min_length=1, max_length=32, description="The Gateways that serve the route")
    hostnames: list[Hostname] = Field(
        default_factory=list,
        max_length=16,
        description="The route's hosts; unset: the trigger's host, else every host that the Gateway serves",
    )


class Exposure(Spec):
    """The requests' way without the fabric's gateway: exactly one of these. On one machine the gateway serves them."""

    ingress: IngressExposure | None = Field(None, description="An Ingress")
    http_route: HTTPRouteExposure | None = Field(None, description="An HTTPRoute of the Gateway API")

    @model_validator(mode="after")
    def _exactly_one(self) -> "Exposure":
        if (self.ingress is None) == (self.http_route is None):
            raise ValueError("exactly one of ingress, httpRoute is needed")
        return self


def only_gateway(field: str) -> str:
    """The message for a field that only the gateway implements."""
    return (
        f"{field}: only the fabric's gateway can do this, and with expose requests do not pass it;"
        f" leave out {field} or expose"
    )


def problems_of(
    trigger: TriggerSource, expose: Exposure, *, path: str | None, methods: Sequence[str], host: str | None
) -> Iterator[str]:
    """The parts of an exposed HTTPTrigger's spec that would have no effect without the gateway.

    `path`, `methods` and `host` are the trigger's own fields.
    """
    for name, field in type(trigger).model_fields.items():
        value = getattr(trigger, name)
        defaults = DELIVERIES if name == "delivery" else (field.get_default(call_default_factory=True),)
        if name not in FIELDS and value not in defaults:
            yield only_gateway(field.alias or name)
    if trigger.target is not None and trigger.target.function is None:
        yield ONE_FUNCTION
    if path is not None and not re.search(PATH, path):
        yield PATH_RULE
    if expose.ingress is not None:
        if methods != type(trigger).model_fields["methods"].default:
            yield NO_METHODS
        if path is not None and path.endswith(REST) and expose.ingress.path_type not in (None, "Prefix"):
            yield REST_IS_A_PREFIX
    if expose.http_route is not None and expose.http_route.hostnames and host is not None:
        yield ONE_HOST
