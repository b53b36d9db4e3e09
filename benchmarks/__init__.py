"""Measures the cost of kubeirq as ratios to other projects, with interleaved runs."""
