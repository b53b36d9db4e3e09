"""Metrics of the budgets of a process: the memory that all triggers share."""

from collections.abc import Iterator

from trigger_sources.budget import Budget
from trigger_sources.observe.metrics import Metric


def budget_metrics(events: Budget, bodies: Budget) -> Iterator[Metric]:
    """The use and the limit of the budget for held events, and of that for the bodies of the gateway's requests."""
    for name, budget, text in (
        ("kubeirq_events_memory", events, "the events that all triggers hold"),
        ("kubeirq_gateway_memory", bodies, "the bodies of the requests in the gateway"),
    ):
        yield Metric.single(f"{name}_bytes", "gauge", f"Memory of {text}", budget.used)
        yield Metric.single(f"{name}_limit_bytes", "gauge", f"The most memory for {text}", budget.limit)
