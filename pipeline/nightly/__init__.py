"""Decide what a night does: pure functions of (history, rows, clock)."""
