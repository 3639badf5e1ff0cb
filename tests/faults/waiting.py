"""Work that waits until its group has a number of workers, for tests of elastic runs."""

import json
import time
from pathlib import Path


def wait_for_workers(worker, work, report):
    """Say how many workers there are, at the start of each attempt; end when the file allows it."""
    report({"event": "group", "workers": worker.world})
    allowed = Path(work)
    while not allowed.exists() or json.loads(allowed.read_text()) != worker.world:
        time.sleep(0.1)
    return {"workers": worker.world}
