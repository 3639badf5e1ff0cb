"""Runs: what a caller asks for, from spec to record: pre-train, tune a night, evaluate, check."""
