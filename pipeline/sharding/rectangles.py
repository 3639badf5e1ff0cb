"""Store matrices that are cut over workers in safetensors files that any plan can read.

    <folder>/<table>/r<row>-c<col>.safetensors   a rectangle of a matrix, from (row, col)

A reader takes from each file the rectangle that it needs. It compares every file with its sha256
before it uses a byte of it.

Shapes: R rows, W columns of a part.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.errors import BadRequest, Corrupt, PipelineError
from iak.pipeline.files import not_permitted, putting_file, sha256_of_file
from iak.pipeline.model.tables import LocalShard
from iak.pipeline.process import Worker
from iak.pipeline.sharding.audit import Entry
from iak.schemas import manifest

MAX_FILE_BYTES = 256 * 2**20
"""Most bytes of weights in one file. It is small enough to be read whole, and a TiB of tables still
is only 4,096 files."""
WEIGHTS = "tables"
"""Folder of the tables' weights."""

R = TypeVar("R")
TORCH_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file: the rectangle of a table in it, and its bytes."""

    path: str
    """Below the directory."""
    table: str | None
    """None for a file of whole tensors."""
    row_offset: int
    rows: int
    col_offset: int
    cols: int
    dtype: str
    sha256: str
    bytes: int


def entries_of(files: Iterable[manifest.FileEntry]) -> list[FileEntry]:
    """Return the entries of files that a manifest lists."""
    return [FileEntry(**dict(file)) for file in files]


def listed(entries: Iterable[FileEntry]) -> list[manifest.FileEntry]:
    """Return entries of files as a manifest lists them."""
    return [manifest.FileEntry(**asdict(entry)) for entry in entries]


def verify_file(directory: Path, entry: FileEntry) -> None:
    """Refuse a file whose bytes are not those of its entry.

    Args:
        directory: folder in which the entry's path begins.
        entry: the file as it was written.

    Raises:
        Corrupt: it is missing, or its sha256 differs.
        NotPermitted: this user may not read it.
    """
    path = directory / entry.path
    try:
        if not path.is_file():
            raise Corrupt(
                f"{path} is missing; its manifest lists it. Restore it, or publish again."
            )
        sha256 = sha256_of_file(path)
    except PermissionError as error:
        raise not_permitted(path, error) from error
    if sha256 != entry.sha256:
        raise Corrupt(
            f"{path} is not the file that was published.\n"
            f"  sha256 found:    {sha256} ({path.stat().st_size} bytes)\n"
            f"  sha256 expected: {entry.sha256} ({entry.bytes} bytes)\n"
            "  Restore the file, or publish the base again."
        )


def together(work: Callable[[], R], worker: Worker) -> list[R]:
    """Do `work` on every rank and return all results; a collective call.

    Args:
        work: work of this rank. It makes no collective call of its own.
        worker: this process.

    Raises:
        PipelineError: the error that any rank raised, on every rank alike. No rank is left waiting
            for one that failed.
    """
    outcome: R | PipelineError
    try:
        outcome = work()
    except PipelineError as error:
        outcome = error
    except PermissionError as error:
        outcome = not_permitted(Path(error.filename or "the weights' directory"), error)
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
    """Yield a shard in bands of rows, none above `max_file_bytes`; none of an empty shard."""
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


def write_rectangles(
    shards: Iterable[LocalShard],
    directory: Path,
    *,
    folder: str = WEIGHTS,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[FileEntry]:
    """Write parts of matrices to files.

    Args:
        shards: the parts.
        directory: folder in which the entries' paths begin.
        folder: folder below it, for these matrices.
        max_file_bytes: most bytes of values in one file. A file has at least one row.

    Returns:
        An entry per file.

    Raises:
        BadRequest: a table's name cannot be a path.
    """
    return [
        _write_rectangle(piece, directory, folder)
        for shard in shards
        for piece in _pieces(shard, max_file_bytes)
    ]


def _write_rectangle(piece: LocalShard, directory: Path, folder: str) -> FileEntry:
    """Write one rectangle to its file."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", piece.table):
        raise BadRequest(
            f"table name {piece.table!r} cannot be a directory; use letters, digits, '_', '-', '.'"
        )
    path = _path_of(folder, piece.table, piece.row_offset, piece.col_offset)
    sha256, num_bytes = _save({"weight": piece.tensor_RW}, directory / path)
    return FileEntry(
        path=path,
        table=piece.table,
        row_offset=piece.row_offset,
        rows=piece.tensor_RW.shape[0],
        col_offset=piece.col_offset,
        cols=piece.tensor_RW.shape[1],
        dtype=dtype_of(piece.tensor_RW),
        sha256=sha256,
        bytes=num_bytes,
    )


def _path_of(folder: str, table: str, row_offset: int, col_offset: int) -> str:
    """Return a rectangle's path below the directory."""
    return f"{folder}/{table}/r{row_offset}-c{col_offset}.safetensors"


def save_tensors(tensors: Mapping[str, Tensor], directory: Path, path: str) -> FileEntry:
    """Write whole tensors, by name, to one file, and return its entry."""
    sha256, num_bytes = _save(tensors, directory / path)
    return FileEntry(
        path=path,
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
    """Write a safetensors file, synced to the disk, and return its sha256 and its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with putting_file(path) as part:
        save_file(cpu, part)
    return sha256_of_file(path), path.stat().st_size


def matrix_of(entries: Sequence[FileEntry]) -> Entry:
    """Return shape and type of the matrix that files make up."""
    rows = max(entry.row_offset + entry.rows for entry in entries)
    width = max(entry.col_offset + entry.cols for entry in entries)
    return Entry(shape=(rows, width), dtype=entries[0].dtype)


def cover_problems(
    name: str, table: Entry, entries: Sequence[FileEntry], *, folder: str = WEIGHTS
) -> Iterator[str]:
    """Yield the problems that keep files from making up a table; nothing where they do.

    The files must tile the table in bands of columns that are cut by rows, and be of one type.

    Args:
        name: name of the table.
        table: its shape and type.
        entries: its files.
        folder: folder in which the files lie.
    """
    rows, width = table.shape
    for entry in entries:
        if entry.path != (path := _path_of(folder, name, entry.row_offset, entry.col_offset)):
            yield f"{entry.path} should be {path}"
        if entry.dtype != table.dtype:
            yield f"{entry.path} holds {entry.dtype}, other files of the table {table.dtype}"
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
    """Return whether (offset, length) spans lie end to end from 0 to `length`."""
    end = 0
    for offset, size in sorted(spans):
        if offset != end or size <= 0:
            return False
        end += size
    return end == length


class Source:
    """Matrices in files, read by rectangles; a file is verified when it is first needed."""

    def __init__(self, directory: Path, files: Sequence[FileEntry]) -> None:
        """Note the files of each matrix; nothing is read yet."""
        self.directory = directory
        self._verified: set[str] = set()
        self._by_table: dict[str, list[FileEntry]] = {}
        for entry in files:
            if entry.table is not None:
                self._by_table.setdefault(entry.table, []).append(entry)

    def read(self, out_RW: Tensor, *, table: str, row: int, col: int) -> None:
        """Fill `out_RW` with the part of a table that begins at (row, col), from all its files.

        Raises:
            Corrupt: a file is missing or not what its entry says.
        """
        rows, cols = out_RW.shape
        for entry in self._by_table[table]:
            top, bottom = _common(entry.row_offset, entry.rows, row, rows)
            left, right = _common(entry.col_offset, entry.cols, col, cols)
            if top >= bottom or left >= right:
                continue
            if entry.path not in self._verified:
                verify_file(self.directory, entry)
                self._verified.add(entry.path)
            # A view of the file's pages: the only copy is the one into `out_RW`.
            part_RW = self._part(entry, (top, bottom), (left, right))
            with torch.no_grad():
                out_RW[top - row : bottom - row, left - col : right - col].copy_(part_RW)

    def _part(self, entry: FileEntry, rows: tuple[int, int], cols: tuple[int, int]) -> Tensor:
        """Read a rectangle of a file, given by rows and columns of its table."""
        with opened(self.directory / entry.path) as file:
            weight = file.get_slice("weight")
            if tuple(weight.get_shape()) != (entry.rows, entry.cols):
                raise Corrupt(
                    f"{self.directory / entry.path} holds {weight.get_shape()}; "
                    f"its entry says {[entry.rows, entry.cols]}"
                )
            top, bottom = (row - entry.row_offset for row in rows)
            left, right = (col - entry.col_offset for col in cols)
            part_RW: Tensor = weight[top:bottom, left:right]
            return part_RW


def _common(offset: int, length: int, other: int, other_length: int) -> tuple[int, int]:
    """Return the overlap of two spans as (start, end); there is none where end <= start."""
    return max(offset, other), min(offset + length, other + other_length)


def opened(path: Path) -> safe_open:
    """Open a safetensors file, to be read in parts.

    Raises:
        Corrupt: it is not a safetensors file.
    """
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise Corrupt(f"{path} is not a safetensors file: {error}") from error


def type_named(word: str) -> str:
    """Return torch's name of a type that safetensors names; an unknown one is returned as it is."""
    return TORCH_TYPES.get(word, word)


def dtype_of(tensor: Tensor) -> str:
    """Return torch's name of a tensor's type."""
    return str(tensor.dtype).removeprefix("torch.")
