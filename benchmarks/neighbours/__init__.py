"""The noisy-neighbour test: what the tenants of one installation feel of the one that is hostile."""

import sys

from benchmarks.measure import ROOT

sys.path.insert(0, str(ROOT / "tests"))
