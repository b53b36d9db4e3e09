"""The Python runtime: serves `handler(event, context)` over HTTP. See docs/runtime-contract.md.

It has two processes. The supervisor owns the listening socket and does nothing else, so that no connection is refused
while a worker is replaced. The worker runs the function. A thread of the worker, the watchdog, watches the calls: when
a call is past its time and the event loop cannot end it, the watchdog answers 408 and ends the process.
"""
