"""Work for a worker that fails in the same way however often it is tried."""

from pathlib import Path


def fail(_worker, place, _report):
    """Count the attempt, then fail."""
    attempts = Path(place) / "attempts"
    seen = int(attempts.read_text()) if attempts.exists() else 0
    attempts.write_text(str(seen + 1))
    raise ValueError("columns end to end")
