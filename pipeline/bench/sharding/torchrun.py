"""Run a worker that torchrun started; its work lies in the folder that its first word names."""

import json
import pickle
import sys
from pathlib import Path

from iak.pipeline.bench.progress import writer
from iak.pipeline.bench.sharding.launch import RESULT, WORK, backend_of
from iak.pipeline.bench.sharding.worker import Work, on_worker
from iak.pipeline.process import keep_freed_memory, process_group, torchrun_place


def main() -> None:
    """Join the others, measure, and leave worker 0's answer in the folder."""
    folder = Path(sys.argv[1])
    work: Work = pickle.loads((folder / WORK).read_bytes())
    rank, world = torchrun_place()
    keep_freed_memory()
    with process_group(
        rank,
        world,
        init_method=f"file://{folder / 'store'}",
        backend=backend_of(work.spec),
        threads=1,
    ) as worker:
        result = on_worker(worker, work, writer(Path(work.progress), worker))
    if rank == 0:
        (folder / RESULT).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
