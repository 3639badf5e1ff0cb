"""Tune a night's kernels: levels, cohorts, schedules, optimiser, checkpoints, gate rows."""
