"""Write and read the state of the tables' row-wise Adagrad under any plan.

The state is one accumulator per row: a sum over steps of the mean square gradient of the columns
that a worker owns. Where a table is cut into B bands of columns, its state is a matrix of rows x B.
The state can move between workers and between cuts by rows. It cannot move between cuts by columns,
because another band has other squares. There it starts at zero, and a warning says so.

    momentum/<table>/r<row>-c<band>.safetensors
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.tables import LocalShard
from iak.pipeline.process import Worker
from iak.pipeline.sharding.growth import NO_GROWTH, Growth, read_grown
from iak.pipeline.sharding.rectangles import (
    MAX_FILE_BYTES,
    FileEntry,
    Source,
    cover_problems,
    matrix_of,
    together,
    write_rectangles,
)
from iak.pipeline.sharding.shard import local_shards, table_modules, unwrap
from iak.schemas.feature import FIRST_ROW

FOLDER = "momentum"
"""The name in files, from the first version on. The state is no momentum."""
_log = logging.getLogger(__name__)


def local_accumulators(model: nn.Module) -> list[LocalShard]:
    """Return this worker's parts of the state, not copied.

    Each is a single column; its column offset is the number of its band.

    Args:
        model: sharded, its tables trained.
    """
    # fbgemm names no table in its state: a part is matched by the address of its weights.
    by_address = {
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
            tensor_RW=by_address[shard.tensor_RW.data_ptr()].view(-1, 1),
        )
        for shard in local_shards(model)
        if shard.tensor_RW.numel()
    ]


def write_accumulators(
    model: nn.Module,
    directory: Path,
    worker: Worker,
    *,
    folder: str = FOLDER,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[FileEntry]:
    """Write the state under `directory`, in `folder`; a collective call.

    Args:
        model: sharded, its tables trained.
        directory: folder, the same for every worker.
        worker: this process.
        folder: name of a folder below it.
        max_file_bytes: most bytes of one file.

    Returns:
        On rank 0 an entry per file, in order of path; elsewhere nothing.

    Raises:
        BadRequest: the disk refuses a write; on every rank alike.
    """
    by_rank = together(
        lambda: write_rectangles(
            local_accumulators(model), directory, folder=folder, max_file_bytes=max_file_bytes
        ),
        worker,
    )
    entries = sorted((entry for part in by_rank for entry in part), key=lambda entry: entry.path)
    return [] if worker.rank else entries


def read_accumulators(
    model: nn.Module,
    directory: Path,
    entries: Sequence[FileEntry],
    worker: Worker,
    *,
    folder: str = FOLDER,
    sizes_before: Mapping[str, tuple[int, int]] | None = None,
    growth: Growth = NO_GROWTH,
) -> list[str]:
    """Fill the model's state from files, whatever plan wrote them; a collective call.

    Args:
        model: sharded, its tables trained.
        directory: folder of the files.
        entries: entries that `write_accumulators` returned, the same on every rank.
        worker: this process.
        folder: name of the folder below the directory.
        sizes_before: rows and width of every table that was written; the model's own when absent.
        growth: the earlier row that each row of a grown table continues.

    Returns:
        A line for each table whose state starts at zero, for all rows or for those of new ids; the
        same on every rank.

    Raises:
        BadRequest: a table's state is missing, or has another number of rows.
        Corrupt: a file is missing or not what its entry says. All reach every rank.
    """
    by_table: dict[str, list[FileEntry]] = {}
    for entry in entries:
        by_table.setdefault(str(entry.table), []).append(entry)
    sizes = unwrap(model).table_sizes
    before = sizes if sizes_before is None else sizes_before

    def read() -> list[str]:
        was = {
            name: _Size(rows, width, _bands(name, rows, by_table.get(name, []), folder))
            for name, (rows, width) in before.items()
            if name in sizes
        }
        source, bands, lines = Source(directory, entries), _bands_owned(model), []
        for part in local_accumulators(model):
            name = part.table
            now = _Size(*sizes[name], bands[name])
            lines += _read_part(part, source, was.get(name), now, growth.rows.get(name))
        return lines

    # A set, because several workers own parts of a table and return the same line.
    lines = sorted({line for part in together(read, worker) for line in part})
    for line in lines if worker.rank == 0 else []:
        _log.warning(line)
    return lines


class _Size(NamedTuple):
    """A table's size, and the number of bands of columns that its state has."""

    rows: int
    width: int
    bands: int


def _read_part(
    part: LocalShard, source: Source, was: _Size | None, now: _Size, origin: RowOrigin | str | None
) -> list[str]:
    """Fill one part of a table's state, and return a line where it starts at zero."""
    why = _why_zero(part.table, was, now, origin)
    if why:
        part.tensor_RW.zero_()
        return [f"table {part.table}: weights only, its Adagrad state starts at zero; {why}"]
    if isinstance(origin, RowOrigin):
        return _read_grown_accumulators(part, source, origin)
    source.read(part.tensor_RW, table=part.table, row=part.row_offset, col=part.col_offset)
    return []


def _why_zero(name: str, was: _Size | None, now: _Size, origin: RowOrigin | str | None) -> str:
    """Return the reason why no row of a table continues a state; empty where rows do."""
    if was is None:
        return "the base had no such table"
    has_rows = was.rows == now.rows or isinstance(origin, RowOrigin)
    if was.width != now.width or not has_rows:
        return f"{name} was {was.rows} rows of {was.width}, and is {now.rows} of {now.width}"
    if was.bands != now.bands:
        return (
            f"it was stored for {was.bands} band(s) of columns, this plan cuts the table into "
            f"{now.bands}"
        )
    return ""


@torch.no_grad()
def _read_grown_accumulators(part: LocalShard, source: Source, origin: RowOrigin) -> list[str]:
    """Give each row the state of the row that its id used before, and zero to rows of new ids.

    A new id starts with the weights of unseen ids. Many ids share these, so that their accumulator
    is large. With it a new id's steps would be too small to move away from them.
    """
    read_grown(
        part.tensor_RW, source.read, origin,
        table=part.table, row=part.row_offset, col=part.col_offset,
    )  # fmt: skip
    rows_R = np.arange(part.row_offset, part.row_offset + len(part.tensor_RW), dtype=np.int64)
    is_new_R = (rows_R >= FIRST_ROW) & (origin.of(rows_R) < FIRST_ROW)
    if not is_new_R.any():
        return []
    part.tensor_RW[torch.from_numpy(is_new_R).to(part.tensor_RW.device)] = 0.0
    return [f"table {part.table}: the Adagrad state of its new rows starts at zero"]


def _bands_owned(model: nn.Module) -> dict[str, int]:
    """Return the number of bands of columns of each table of which this worker owns a part."""
    sizes = unwrap(model).table_sizes
    return {
        shard.table: sizes[shard.table][1] // shard.tensor_RW.shape[1]
        for shard in local_shards(model)
        if shard.tensor_RW.numel()
    }


def _bands(name: str, rows: int, entries: Sequence[FileEntry], folder: str) -> int:
    """Return the number of bands of columns of a table's written state.

    Raises:
        BadRequest: there are no files, or they do not make up the state of so many rows.
    """
    if not entries:
        raise BadRequest(f"no Adagrad state of table {name} was written; start a new run")
    matrix = matrix_of(entries)
    problems = list(cover_problems(name, matrix, entries, folder=folder))
    if problems or matrix.shape[0] != rows or matrix.dtype != "float32":
        raise BadRequest(
            f"the Adagrad state of table {name} is {matrix}, the table has {rows} rows; "
            + "; ".join([*problems, "start a new run"])
        )
    return matrix.shape[1]
