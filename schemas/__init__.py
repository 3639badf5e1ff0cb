"""Documents: what a log, a job, a bundle and a record say. Plain pydantic, no torch, no ray, no I/O."""
