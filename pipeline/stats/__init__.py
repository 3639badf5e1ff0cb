"""Metrics per task and domain, with paired intervals."""
