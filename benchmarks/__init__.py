"""What kubeirq costs, as ratios against others, measured interleaved in one run."""
