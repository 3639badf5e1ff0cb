"""Run one worker of `TorchrunLauncher`. Torchrun calls `python -m iak.pipeline.torchrun FOLDER`.

The folder has a `Launch` (launcher.py). Worker 0 writes its result there, and a worker that fails
writes its error, since torchrun itself passes on nothing but text.
"""

import pickle
import sys
from pathlib import Path

from iak.pipeline.errors import PipelineError
from iak.pipeline.files import put_file
from iak.pipeline.process import keep_freed_memory, process_group, torchrun_rank
from iak.pipeline.progress import PROGRESS, worker_report

WORK, RESULT, ERROR = "work.pickle", "result.json", "error-{rank}.pickle"


def main(folder: Path) -> None:
    """Join the process group, run the function, and write its result."""
    launch, backend = pickle.loads((folder / WORK).read_bytes())
    keep_freed_memory()
    rank, world = torchrun_rank()
    try:
        with process_group(
            rank, world, init_method=f"file://{folder}/store", backend=backend, threads=1
        ) as worker:
            report = worker_report(launch.run_dir / PROGRESS, rank)
            result = launch.function(worker, launch.work, report)
            if rank == 0:
                put_file(folder / RESULT, launch.written(result))
    except PipelineError as error:
        put_file(folder / ERROR.format(rank=rank), pickle.dumps(error))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
