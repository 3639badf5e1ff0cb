"""What the tables' row-wise Adagrad remembers, written and read under any plan.

It is a mean of squares a row, over the columns a worker holds of it: of a table cut into B bands
of columns, a matrix of rows x B. It moves between workers and between cuts by rows. Between cuts
by columns it cannot: a band's memory is not another band's. There it starts anew, said aloud.

    momentum/<table>/r<row>-c<band>.safetensors
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from pipeline.errors import BadRequest
from pipeline.model.tables import LocalShard
from pipeline.process import Worker
from pipeline.sharding.rectangles import (
    MAX_FILE_BYTES,
    FileEntry,
    Source,
    cover_problems,
    matrix_of,
    together,
    write_rectangles,
)
from pipeline.sharding.shard import local_shards, table_modules, unwrap

FOLDER = "momentum"
_log = logging.getLogger(__name__)


def local_momentum(model: nn.Module) -> list[LocalShard]:
    """This worker's parts of it, live: one column each, at the number of its band.

    Args:
        model: sharded, its tables trained.
    """
    kept = {
        weights_RW.data_ptr(): states[0]
        for module in table_modules(model)
        for weights_RW, states in zip(
            module.split_embedding_weights(), module.split_optimizer_states(), strict=True
        )
        if weights_RW.numel()
    }
    return [
        LocalShard(
            table=shard.table,
            row_offset=shard.row_offset,
            col_offset=shard.col_offset // shard.tensor_RW.shape[1],
            tensor_RW=kept[shard.tensor_RW.data_ptr()].view(-1, 1),
        )
        for shard in local_shards(model)
        if shard.tensor_RW.numel()
    ]


def write_momentum(
    model: nn.Module, directory: Path, worker: Worker, *, max_file_bytes: int = MAX_FILE_BYTES
) -> list[dict[str, object]]:
    """Write it under `directory`; a collective call.

    Returns:
        On rank 0 the fields of a `FileEntry` per file, in order of path; elsewhere nothing.

    Raises:
        BadRequest: the disk refuses; on every rank alike.
    """
    by_rank = together(
        lambda: write_rectangles(
            local_momentum(model), directory, folder=FOLDER, max_file_bytes=max_file_bytes
        ),
        worker,
    )
    entries = sorted((entry for part in by_rank for entry in part), key=lambda entry: entry.path)
    return [] if worker.rank else [asdict(entry) for entry in entries]


def read_momentum(
    model: nn.Module, directory: Path, entries: Sequence[Mapping[str, object]], worker: Worker
) -> list[str]:
    """Fill the model's from files, whatever plan wrote them; a collective call.

    Args:
        model: sharded, its tables trained, of the tables that were written.
        directory: where the files lie.
        entries: what `write_momentum` returned, on every rank.
        worker: this process.

    Returns:
        A line for each table whose momentum starts anew, the same on every rank.

    Raises:
        BadRequest: a table's momentum is not there, or not of as many rows.
        Corrupt: a file is missing or not what its entry says. All reach every rank.
    """
    files = [FileEntry(**entry) for entry in entries]  # type: ignore[arg-type]
    by_table: dict[str, list[FileEntry]] = {}
    for entry in files:
        by_table.setdefault(str(entry.table), []).append(entry)

    def read() -> list[str]:
        sizes = unwrap(model).table_sizes
        bands_before = {
            name: _bands(name, rows, by_table.get(name, [])) for name, (rows, _) in sizes.items()
        }
        source, anew = Source(directory, files), []
        bands = _bands_held(model)
        for part in local_momentum(model):
            before, now = bands_before[part.table], bands[part.table]
            if before == now:
                source.read(
                    part.tensor_RW, table=part.table, row=part.row_offset, col=part.col_offset
                )
            else:
                part.tensor_RW.zero_()
                anew.append(
                    f"table {part.table}: weights only, its momentum starts anew; it was kept for "
                    f"{before} band(s) of columns, this plan cuts the table into {now}"
                )
        return anew

    told = sorted({line for lines in together(read, worker) for line in lines})
    for line in told if worker.rank == 0 else []:
        _log.warning(line)
    return told


def _bands_held(model: nn.Module) -> dict[str, int]:
    """Into how many bands of columns each table is cut, of which this worker holds a part."""
    sizes = unwrap(model).table_sizes
    return {
        shard.table: sizes[shard.table][1] // shard.tensor_RW.shape[1]
        for shard in local_shards(model)
        if shard.tensor_RW.numel()
    }


def _bands(name: str, rows: int, entries: Sequence[FileEntry]) -> int:
    """Bands of columns that a table's momentum was kept for."""
    if not entries:
        raise BadRequest(f"no momentum of table {name} was written; start a new run")
    matrix = matrix_of(entries)
    problems = list(cover_problems(name, matrix, entries, folder=FOLDER))
    if problems or matrix.shape[0] != rows or matrix.dtype != "float32":
        raise BadRequest(
            f"the momentum of table {name} is {matrix}, the table has {rows} rows; "
            + "; ".join([*problems, "start a new run"])
        )
    return matrix.shape[1]
