"""What `iak bench NAME` measures, and the parts it shares with the project's own benchmarks."""
