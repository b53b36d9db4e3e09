"""Starts the Python runtime: `python server.py`. See docs/runtime-contract.md.

Copy this file and the folder kubeirq_runtime into any image. They need httptools, use uvloop and orjson if these are
installed, and import nothing else beyond the standard library.
"""

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.insert(0, here)  # Python leaves it out with PYTHONSAFEPATH
    from kubeirq_runtime.supervisor import main

    sys.exit(main())
