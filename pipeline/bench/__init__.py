"""Measure what `iak bench NAME` offers, with parts that the project's own benchmarks share."""
