"""Metrics of the budgets of a process: the memory and the connections that all triggers share."""

from collections.abc import Iterator

from trigger_sources.budget import Budget
from trigger_sources.descriptors import function_connections
from trigger_sources.observe.metrics import Metric


def budget_metrics(events: Budget, bodies: Budget) -> Iterator[Metric]:
    """The use and the limit of the budgets for held events, bodies of the gateway's requests, and connections."""
    for name, budget, text in (
        ("kubeirq_events_memory", events, "the events that all triggers hold"),
        ("kubeirq_gateway_memory", bodies, "the bodies of the requests in the gateway"),
    ):
        yield Metric.single(f"{name}_bytes", "gauge", f"Memory of {text}", budget.used)
        yield Metric.single(f"{name}_limit_bytes", "gauge", f"The most memory for {text}", budget.limit)
    connections = function_connections()
    text = "connections to functions"
    yield Metric.single("kubeirq_function_connections", "gauge", f"Open {text}", connections.used)
    yield Metric.single("kubeirq_function_connections_limit", "gauge", f"The most {text}", connections.limit)
