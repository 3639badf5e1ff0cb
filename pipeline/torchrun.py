"""Run one worker of `TorchrunLauncher`. Torchrun calls `python -m iak.pipeline.torchrun FOLDER`.

The folder has the function and its work. Worker 0 writes its result there, and a worker that fails
writes its error, since torchrun itself passes on nothing but text.
"""

import json
import pickle
import sys
from pathlib import Path

from iak.pipeline.errors import PipelineError
from iak.pipeline.files import put_file
from iak.pipeline.process import keep_freed_memory, process_group, torchrun_rank
from iak.pipeline.progress import worker_report

WORK, RESULT, ERROR = "work.pickle", "result.json", "error-{rank}.pickle"


def main(folder: Path) -> None:
    """Join the process group, run the function, and write its result."""
    function, work, progress, backend = pickle.loads((folder / WORK).read_bytes())
    keep_freed_memory()
    rank, world = torchrun_rank()
    try:
        with process_group(
            rank, world, init_method=f"file://{folder}/store", backend=backend, threads=1
        ) as worker:
            result = function(worker, work, worker_report(progress, rank))
            if rank == 0:
                put_file(folder / RESULT, json.dumps(result))
    except PipelineError as error:
        put_file(folder / ERROR.format(rank=rank), pickle.dumps(error))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
