"""For all tiers: a property holds or not however busy the machine is, so none has a deadline by the clock."""

from hypothesis import settings

settings.register_profile("kubeirq", deadline=None)
settings.load_profile("kubeirq")
