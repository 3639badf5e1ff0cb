"""Compute the frozen base's output for rows, standardise it, and store it for later use."""
