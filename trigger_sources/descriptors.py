"""The open files that this process may have, and the connections to functions among them.

A connection is an open file. A process that has all its files open can read no other one and accept no caller.
So calls of functions get half of them, and the gateway's callers a quarter.
"""

import contextlib
from functools import cache

from trigger_sources.budget import Budget

_MOST = 65_536


def most_files() -> int:
    """The number of files that the process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return _MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)


def raise_limit() -> None:
    """Lets the process open as many files as its surroundings allow: the usual soft limit of 1,024 is for select()."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@cache
def function_connections() -> Budget:
    """The connections of this process to functions: each function has a share, and they divide the rest."""
    return Budget(most_files() // 2)
