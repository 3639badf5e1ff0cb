"""Documents: what a log, a job, a bundle and a record say. No torch, no ray, no I/O."""
