"""Metrics by task and domain, with paired intervals."""
