"""Everything that tiers stand on and that takes minutes to make, once: the cache is outside the checkout.

Usage: -m servers.prepared NAME ...
"""

import sys
from collections.abc import Callable

from servers import kubernetes_cron
from servers.kafka import jars
from servers.kubernetes_build.build import gateway_api, monitoring, programs


def kubernetes() -> None:
    programs()
    gateway_api()
    monitoring()


def images() -> None:
    from servers.images import archives, project_archives

    archives()
    project_archives()


PREPARED: dict[str, Callable[[], object]] = {
    "kafka": jars,
    "cron": kubernetes_cron.program,
    "kubernetes": kubernetes,
    "images": images,
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        PREPARED[name]()
