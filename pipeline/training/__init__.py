"""Loops, state, checkpoints and evaluation."""
