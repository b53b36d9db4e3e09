"""Cron: schedules in time zones, and the source that ticks by them."""

from trigger_sources.cron.source import CronTrigger

__all__ = ["CronTrigger"]
