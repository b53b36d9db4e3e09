"""For all tiers: neither how busy the machine is nor how the tests were started changes what they find."""

import signal

from hypothesis import settings

# A property holds or not: none has a deadline by the clock
settings.register_profile("kubeirq", deadline=None)
settings.load_profile("kubeirq")

# Who is started in the background ignores interrupts, and so would every program that a test interrupts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Who is told to end stops first what its tests have started
signal.signal(signal.SIGTERM, signal.default_int_handler)
