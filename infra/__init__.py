"""What stands beside the package: its benchmarks, its packaging."""
