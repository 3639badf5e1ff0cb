"""Runs: what a caller asks for, from the spec to a record: pre-train, tune a night, evaluate, check."""
