"""The use cases, from spec to record: pre-train, tune a night, evaluate, check a log."""
