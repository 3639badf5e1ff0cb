"""The published base: safetensors files that any number of workers can write and read.

    dense.safetensors                       everything but tables, by name
    tables/<table>/r<row>-c<col>.safetensors  a rectangle of a table, from (row, col), as `weight`

The plan that wrote them does not bind the plan that reads them: a reader takes from each file the
rectangle it needs. Every file is checked against its sha256 before a byte of it is used.

Shapes: R rows, W columns of a shard.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist

from pipeline.errors import BadRequest, Corrupt, PipelineError
from pipeline.model.tables import LocalShard
from pipeline.process import Worker
from pipeline.sharding.shard import dense_state, local_shards, unwrap

DENSE_PATH = "dense.safetensors"
MAX_FILE_BYTES = 256 * 2**20
"""Weights in one file: small enough to read whole, large enough that a terabyte is few files."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One published file: which rectangle of which table (None: the dense part), and its bytes."""

    path: str
    table: str | None
    row_offset: int
    rows: int
    col_offset: int
    cols: int
    dtype: str
    sha256: str
    bytes: int


def write_base_weights(
    model: nn.Module, directory: Path, worker: Worker, *, max_file_bytes: int = MAX_FILE_BYTES
) -> list[dict[str, object]]:
    """Write the model's weights under `directory`; a collective call where it is sharded.

    Args:
        model: sharded, or a plain `Recommender` in a world of one.
        directory: seen by every worker; files of the same name are overwritten.
        worker: this process. Every rank writes its own shards, rank 0 the dense part.
        max_file_bytes: weights in one table file, at most.

    Returns:
        On rank 0 the fields of a `FileEntry` per file, in order of path; elsewhere nothing.

    Raises:
        BadRequest: a table's name cannot be a path, or the disk refuses; on every rank alike.
    """

    def write() -> list[FileEntry]:
        entries = [
            _write_rectangle(piece, directory)
            for shard in local_shards(model)
            for piece in _pieces(shard, max_file_bytes)
        ]
        return entries if worker.rank else [*entries, _write_dense(model, directory)]

    by_rank = _together(write, worker)
    entries = sorted((entry for part in by_rank for entry in part), key=lambda entry: entry.path)
    return [] if worker.rank else [asdict(entry) for entry in entries]


def read_base_weights(
    model: nn.Module, directory: Path, entries: Sequence[Mapping[str, object]], worker: Worker
) -> None:
    """Fill `model` from published files, whatever plan wrote them; collective where sharded.

    Args:
        model: sharded in any way, or a plain `Recommender`; its values are overwritten in place.
        directory: where the files lie.
        entries: what `write_base_weights` returned, on every rank.
        worker: this process; it reads only files that overlap its shards, and the dense part.

    Raises:
        BadRequest: the entries do not cover exactly this model's tables, or the dense part has
            other names, shapes or types.
        Corrupt: a file is missing or not what its entry says. Both reach every rank.
    """
    files = [FileEntry(**entry) for entry in entries]  # type: ignore[arg-type]

    def read() -> None:
        _check_cover(files, unwrap(model).table_sizes)
        shards = local_shards(model)
        for entry in files:
            mine = [shard for shard in shards if _overlaps(entry, shard)]
            if mine or entry.table is None:
                verify_file(directory, entry)
            for shard in mine:
                _fill(shard, directory, entry)
            if entry.table is None:
                _fill_dense(model, directory / entry.path)

    _together(read, worker)


def verify_file(directory: Path, entry: FileEntry) -> None:
    """Refuse a file whose bytes are not those of its entry.

    Raises:
        Corrupt: it is missing, or its sha256 differs.
    """
    path = directory / entry.path
    if not path.is_file():
        raise Corrupt(f"{path} is missing; its manifest lists it. Restore it, or publish again.")
    found = _sha256(path)
    if found != entry.sha256:
        raise Corrupt(
            f"{path} is not the file that was published.\n"
            f"  sha256 found:    {found} ({path.stat().st_size} bytes)\n"
            f"  sha256 expected: {entry.sha256} ({entry.bytes} bytes)\n"
            "  Restore the file, or publish the base again."
        )


def _together(work: Callable[[], R], worker: Worker) -> list[R]:
    """Do `work` on every rank and share the results; what one rank raises, all ranks raise."""
    outcome: R | PipelineError
    try:
        outcome = work()
    except PipelineError as error:
        outcome = error
    except OSError as error:
        outcome = BadRequest(f"the weights' directory: {error}")
    by_rank: list[R | PipelineError] = [outcome] * worker.world
    if worker.world > 1:
        dist.all_gather_object(by_rank, outcome)
    results: list[R] = []
    for rank_outcome in by_rank:
        if isinstance(rank_outcome, PipelineError):
            raise rank_outcome
        results.append(rank_outcome)
    return results


def _pieces(shard: LocalShard, max_file_bytes: int) -> Iterator[LocalShard]:
    """A shard by bands of rows, none above `max_file_bytes`; an empty shard has none."""
    rows, width = shard.tensor_RW.shape
    row_bytes = width * shard.tensor_RW.element_size()
    step = max(1, max_file_bytes // max(1, row_bytes))
    for first in range(0, rows, step):
        yield LocalShard(
            table=shard.table,
            row_offset=shard.row_offset + first,
            col_offset=shard.col_offset,
            tensor_RW=shard.tensor_RW[first : first + step],
        )


def _write_rectangle(piece: LocalShard, directory: Path) -> FileEntry:
    """One rectangle to its file."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", piece.table):
        raise BadRequest(
            f"table name {piece.table!r} cannot be a directory; use letters, digits, '_', '-', '.'"
        )
    path = _table_path(piece.table, piece.row_offset, piece.col_offset)
    sha256, num_bytes = _save({"weight": piece.tensor_RW}, directory / path)
    return FileEntry(
        path=path,
        table=piece.table,
        row_offset=piece.row_offset,
        rows=piece.tensor_RW.shape[0],
        col_offset=piece.col_offset,
        cols=piece.tensor_RW.shape[1],
        dtype=_dtype(piece.tensor_RW),
        sha256=sha256,
        bytes=num_bytes,
    )


def _table_path(table: str, row_offset: int, col_offset: int) -> str:
    """Where a rectangle lies under the base's directory."""
    return f"tables/{table}/r{row_offset}-c{col_offset}.safetensors"


def _write_dense(model: nn.Module, directory: Path) -> FileEntry:
    """Everything but the tables to its one file."""
    sha256, num_bytes = _save(dense_state(model), directory / DENSE_PATH)
    return FileEntry(
        path=DENSE_PATH,
        table=None,
        row_offset=0,
        rows=0,
        col_offset=0,
        cols=0,
        dtype="mixed",
        sha256=sha256,
        bytes=num_bytes,
    )


def _save(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, int]:
    """Write a safetensors file; its sha256 and its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(cpu, path)
    return _sha256(path), path.stat().st_size


def _check_cover(files: Iterable[FileEntry], sizes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse entries that are not exactly the model's tables and one dense part."""
    by_table: dict[str | None, list[FileEntry]] = {}
    for entry in files:
        by_table.setdefault(entry.table, []).append(entry)
    dense = by_table.pop(None, [])
    problems = [] if len(dense) == 1 else [f"{len(dense)} dense parts; expected 1"]
    unknown = sorted({str(table) for table in by_table} - set(sizes))
    problems += [f"table {name} is published, but the model has none" for name in unknown]
    for name, (rows, width) in sorted(sizes.items()):
        problems += _cover_problems(name, rows, width, by_table.get(name, []))
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise BadRequest(
            f"the published base is not of this model's shape:\n{listing}\n"
            "  Use the catalogue the base was published with."
        )


def _cover_problems(
    name: str, rows: int, width: int, entries: Sequence[FileEntry]
) -> Iterator[str]:
    """What keeps `entries` from tiling a table of rows x width: bands of columns, cut by rows."""
    if not entries:
        yield f"table {name} ({rows} x {width}) is not published"
        return
    for entry in entries:
        if entry.path != (path := _table_path(name, entry.row_offset, entry.col_offset)):
            yield f"{entry.path} should be {path}"
        if entry.dtype != "float32":
            yield f"{entry.path} holds {entry.dtype}; expected float32"
    bands: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for entry in entries:
        spans = bands.setdefault((entry.col_offset, entry.cols), [])
        spans.append((entry.row_offset, entry.rows))
    if not _tiles(bands, width):
        yield f"table {name}: columns {sorted(bands)} do not make up {width} (offset, columns)"
    for band, spans in sorted(bands.items()):
        if not _tiles(spans, rows):
            yield (
                f"table {name}, columns {band}: {len(spans)} files do not make up {rows} rows; "
                f"they end at {max(row + n for row, n in spans)}"
            )


def _tiles(spans: Iterable[tuple[int, int]], length: int) -> bool:
    """Whether (offset, length) spans lie end to end from 0 to `length`."""
    end = 0
    for offset, size in sorted(spans):
        if offset != end or size <= 0:
            return False
        end += size
    return end == length


def _overlaps(entry: FileEntry, shard: LocalShard) -> bool:
    """Whether a file holds anything of a shard."""
    rows, width = shard.tensor_RW.shape
    return (
        entry.table == shard.table
        and entry.row_offset < shard.row_offset + rows
        and shard.row_offset < entry.row_offset + entry.rows
        and entry.col_offset < shard.col_offset + width
        and shard.col_offset < entry.col_offset + entry.cols
    )


def _fill(shard: LocalShard, directory: Path, entry: FileEntry) -> None:
    """Copy what a file and a shard have in common."""
    rows, width = shard.tensor_RW.shape
    top = max(entry.row_offset, shard.row_offset)
    bottom = min(entry.row_offset + entry.rows, shard.row_offset + rows)
    left = max(entry.col_offset, shard.col_offset)
    right = min(entry.col_offset + entry.cols, shard.col_offset + width)
    with _opened(directory / entry.path) as file:
        weight = file.get_slice("weight")
        if tuple(weight.get_shape()) != (entry.rows, entry.cols):
            raise Corrupt(
                f"{directory / entry.path} holds {weight.get_shape()}; "
                f"its entry says {[entry.rows, entry.cols]}"
            )
        part_RW = weight[
            top - entry.row_offset : bottom - entry.row_offset,
            left - entry.col_offset : right - entry.col_offset,
        ]
    place = shard.tensor_RW[
        top - shard.row_offset : bottom - shard.row_offset,
        left - shard.col_offset : right - shard.col_offset,
    ]
    with torch.no_grad():
        place.copy_(part_RW)


def _fill_dense(model: nn.Module, path: Path) -> None:
    """Copy the dense part into the model, name by name."""
    wanted = dense_state(model)
    with _opened(path) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    problems = [
        f"{name}: published {_shape(found.get(name))}, model {_shape(wanted.get(name))}"
        for name in sorted(found.keys() | wanted.keys())
        if _shape(found.get(name)) != _shape(wanted.get(name))
    ]
    if problems:
        raise BadRequest(
            f"{path} is not of this model's shape:\n  " + "\n  ".join(problems) + "\n"
            "  Use the trunk, heads and tasks the base was published with."
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def _opened(path: Path) -> safe_open:
    """A safetensors file, ready to be read in parts."""
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise Corrupt(f"{path} is not a safetensors file: {error}") from error


def _shape(tensor: Tensor | None) -> str:
    """A tensor's shape and type, as an error shows them."""
    return "nothing" if tensor is None else f"{list(tensor.shape)} {_dtype(tensor)}"


def _dtype(tensor: Tensor) -> str:
    """A tensor's type, as torch names it."""
    return str(tensor.dtype).removeprefix("torch.")


def _sha256(path: Path) -> str:
    """Of a file's bytes, read a little at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
