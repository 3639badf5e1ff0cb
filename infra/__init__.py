"""Infrastructure beside the package: its benchmarks and its packaging."""
