"""Read rows from the Parquet files of a snapshot, one row group at a time.

A row group is decoded whole, brought into the few types that encoding reads (`normal.py`), and cut
to the rows that a split selects. The partition values of its folder are added as columns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iak.pipeline.data import contract, hashing, partitions, splits, structs
from iak.pipeline.data.breaches import Breach, Kind
from iak.pipeline.data.pieces import Group, Piece
from iak.pipeline.data.prefetch import prefetch
from iak.pipeline.data.snapshot import LogFile, Snapshot
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog

TRUTH = ("p_click", "p_order", "p_click_global", "p_order_global")
"""Columns of a planted log's truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """Selected rows of one piece as the log holds them, with their identities."""

    rows: pa.RecordBatch
    identity: hashing.Keys
    """Key of each row: of its declared id, else of its position in its file."""
    truth: pa.RecordBatch | None = None
    """True probabilities of the rows of a planted log, where they were asked for."""
    counts: Mapping[Breach, int] = field(default_factory=dict)
    """Breach -> rows, for those that were seen while reading."""


def select(snapshot: Snapshot, split: Split, catalog: Catalog) -> Selection:
    """Count the rows of a split by row group; see `select_each`."""
    return select_each(snapshot, [split], catalog)[split.name]


def select_each(
    snapshot: Snapshot, chosen: Sequence[Split], catalog: Catalog
) -> dict[str, Selection]:
    """Count the rows of splits by row group, which is read once for all of them.

    Only the columns that decide whether a row belongs to a split are read. Where the footer
    decides alone, no column is read.

    Args:
        snapshot: the files of the log.
        chosen: splits whose rows are counted; no two have the same name.
        catalog: the log's catalogue.

    Returns:
        Name of each split -> its selection.
    """
    groups: dict[str, list[Group]] = {split.name: [] for split in chosen}
    for index, file in enumerate(snapshot.files):
        known = file.exact_partition
        admitted = [s for s in chosen if splits.admits(s, known, log=catalog.log)]
        columns = [splits.columns_read(s, catalog, inside=file.inside) for s in admitted]
        by_rows = [s for s, own in zip(admitted, columns, strict=True) if own or s.is_sliced]
        deciding = tuple(dict.fromkeys(chain.from_iterable(columns)))
        parquet: pq.ParquetFile | None = None
        for group, rows in enumerate(file.group_rows):
            counts = dict.fromkeys((split.name for split in admitted), rows)
            if by_rows:
                parquet = parquet or snapshot.open(file)
                counts |= _selected(parquet, file, group, by_rows, deciding, catalog)
            for name, count in counts.items():
                if count:
                    groups[name].append((index, group, count))
    return {
        split.name: Selection(split=split, snapshot=snapshot, groups=tuple(groups[split.name]))
        for split in chosen
    }


def select_all(snapshot: Snapshot, catalog: Catalog) -> Selection:
    """Count all rows of a snapshot by row group."""
    whole = Split(name="sample", first=None, last=None, where={}, slice=(0.0, 1.0))
    return select(snapshot, whole, catalog)


def _selected(
    parquet: pq.ParquetFile,
    file: LogFile,
    group: int,
    chosen: Sequence[Split],
    columns: tuple[str, ...],
    catalog: Catalog,
) -> dict[str, int]:
    """Read the columns that decide, and return how many rows of a row group each split has."""
    rows = _read_group(parquet, file, group, columns, catalog)
    slice_keys = _slice_keys(rows, file, group, catalog)
    masks = {split.name: splits.mask(split, rows, slice_keys, catalog) for split in chosen}
    return {
        name: file.group_rows[group] if is_selected is None else int(is_selected.sum())
        for name, is_selected in masks.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeGroup:
    """A row group after it was decoded, before a split selects some of its rows."""

    rows: pa.RecordBatch
    identity: hashing.Keys
    slice_keys: hashing.Keys
    """Key of each row, by which slices are cut."""


class LastGroup:
    """The row group that was decoded last, for splits of one log that are read side by side.

    It is for readers with one snapshot and one catalogue.
    """

    def __init__(self) -> None:
        """Hold no row group yet."""
        self._key = ("", 0)
        self._group: WholeGroup | None = None

    def decoded(
        self, snapshot: Snapshot, file: LogFile, group: int, catalog: Catalog
    ) -> WholeGroup:
        """Return a row group, decoded now where it is not the last one; see `_decoded`."""
        key = (file.path, group)
        if self._group is None or key != self._key:
            self._group = None  # freed before the next one needs memory
            self._group, self._key = _decoded(snapshot, file, group, catalog), key
        return self._group


def read_piece(
    selection: Selection,
    piece: Piece,
    catalog: Catalog,
    *,
    truth: Snapshot | None = None,
    last: LastGroup | None = None,
) -> RawRows:
    """Read the rows of a piece, with all columns that the catalogue names.

    Args:
        selection: the selection that the piece belongs to.
        piece: piece to read.
        catalog: the log's catalogue.
        truth: a planted log's truth, whose columns are then read beside the rows.
        last: the row group that was decoded last; None decodes the piece's one in any case.

    Raises:
        BadLog: the row group cannot be decoded, the file changed after it was listed, or the truth
            has no file with the same row groups.
    """
    file = selection.snapshot.files[piece.file]
    decoded = _decoded if last is None else last.decoded
    whole = decoded(selection.snapshot, file, piece.group, catalog)
    rows, identity = whole.rows, whole.identity
    is_selected = splits.mask(selection.split, rows, whole.slice_keys, catalog)
    indices = np.arange(len(rows)) if is_selected is None else np.flatnonzero(is_selected)
    indices = indices[piece.start : piece.stop]
    true_rows = None
    if truth is not None:
        twin = _twin(file, truth)
        true_rows = take_rows(_read_group(truth.open(twin), twin, piece.group, TRUTH), indices)
    rows = _with_partition(take_rows(rows, indices), file)
    return RawRows(
        rows=rows, identity=identity[indices], truth=true_rows, counts=_disagreements(rows, file)
    )


def read_ahead(
    selection: Selection, chosen: Iterable[Piece], catalog: Catalog
) -> Iterator[RawRows]:
    """Yield the rows of pieces in their order, while a thread reads the piece after each.

    Args:
        selection: the selection that the pieces belong to.
        chosen: pieces to read.
        catalog: the log's catalogue.

    Raises:
        BadLog: see `read_piece`.
    """
    yield from prefetch((read_piece(selection, piece, catalog) for piece in chosen), depth=1)


def _decoded(snapshot: Snapshot, file: LogFile, group: int, catalog: Catalog) -> WholeGroup:
    """Decode all columns of a row group that the catalogue names.

    Raises:
        BadLog: it cannot be decoded, or the file changed after it was listed.
    """
    keys = catalog.log.partition_keys
    inside = tuple(c for c in catalog.columns if c not in keys)
    inside += tuple(key for key in file.inside if key not in inside)
    opened = snapshot.open_file(file)
    rows = _read_group(opened.parquet, file, group, inside, catalog)
    if file.content is not None:
        # Check after decoding: a file that is written meanwhile would pass a check before it.
        file.content.check(opened.handle, file.path, group)
    identity = _identity(rows, file, group, catalog)
    slice_keys = _slice_keys(rows, file, group, catalog) if catalog.log.slice_by else identity
    return WholeGroup(rows=rows, identity=identity, slice_keys=slice_keys)


def read_columns(
    snapshot: Snapshot, file: LogFile, group: int, columns: tuple[str, ...], catalog: Catalog
) -> pa.RecordBatch:
    """Read some columns of one row group, whether the catalogue names them or not."""
    return _read_group(snapshot.open(file), file, group, columns, catalog)


def read_column(
    snapshot: Snapshot, file: LogFile, column: str, catalog: Catalog | None = None
) -> Iterator[pa.Array]:
    """Yield one column of a file, one row group at a time.

    Args:
        snapshot: the log.
        file: one of its files.
        column: name of the column.
        catalog: says what the column is, and how it is written; None reads it as it is.
    """
    parquet = snapshot.open(file)
    for group in range(len(file.group_rows)):
        yield _read_group(parquet, file, group, (column,), catalog).column(column)


def row_keys(snapshot: Snapshot, file: LogFile, group: int, catalog: Catalog) -> hashing.Keys:
    """Return the keys of a row group's rows. Only the row id is read."""
    columns = (catalog.log.row_id,) if catalog.log.row_id else ()
    rows = _read_group(snapshot.open(file), file, group, columns, catalog)
    return _identity(rows, file, group, catalog)


def selected_columns(
    selection: Selection, file: int, group: int, columns: tuple[str, ...], catalog: Catalog
) -> pa.RecordBatch:
    """Return some columns of a row group's selected rows, and the partition's values.

    Args:
        selection: the rows.
        file: index of the file in the snapshot.
        group: index of its row group.
        columns: wanted names. Where the file's partition gives the value of each of them, nothing
            is read, and one row is returned for all rows of the group.
        catalog: the log's catalogue.
    """
    log_file = selection.snapshot.files[file]
    inside = [column for column in columns if column not in log_file.exact_partition]
    if not inside:
        return _with_partition(pa.RecordBatch.from_arrays([pa.nulls(1)], ["_"]), log_file)
    deciding = splits.columns_read(selection.split, catalog, inside=log_file.inside)
    wanted = tuple(dict.fromkeys((*inside, *deciding)))
    rows = _read_group(selection.snapshot.open(log_file), log_file, group, wanted, catalog)
    slice_keys = _slice_keys(rows, log_file, group, catalog)
    is_selected = splits.mask(selection.split, rows, slice_keys, catalog)
    selected = rows if is_selected is None else rows.filter(pa.array(is_selected))
    return _with_partition(selected, log_file)


def _read_group(
    parquet: pq.ParquetFile,
    file: LogFile,
    group: int,
    columns: tuple[str, ...],
    catalog: Catalog | None = None,
) -> pa.RecordBatch:
    """Read columns of one row group in the types that encoding reads.

    Rows that a table's metadata deletes are left out. An optional column that the file lacks is
    null. A partition key that is a column of the file comes as text, as partition values do. Other
    partition values are not added.

    Raises:
        BadLog: the row group cannot be decoded.
    """
    names = file.stored_names(columns)
    try:
        # Without Arrow's threads: a worker reads ahead in one thread of its own (prefetch.py).
        table = parquet.read_row_group(group, columns=list(names.values()), use_threads=False)
        table = structs.with_field_columns(table)
        refuse_broken(table)
    except (pa.ArrowException, OSError) as error:
        raise BadLog(
            f"{file.path}, row group {group} cannot be decoded: {error}. "
            "The footer is whole but the data are not; write the file again, or move it away"
        ) from error
    if not columns:
        return pa.RecordBatch.from_arrays([pa.nulls(file.group_rows[group])], ["_"])
    rows = file.stored_rows[group]
    if table.num_columns and len(table) != rows:
        raise BadLog(
            f"{file.path}, row group {group} decodes to {len(table):,} rows, its footer says "
            f"{rows:,}; write the file again, or move it away"
        )
    batch = _as_logged(table.combine_chunks(), file, group, names)
    try:
        return contract.rows_as_declared(batch, columns, catalog)
    except pa.ArrowException as error:
        raise BadLog(f"{file.path}, row group {group}: {error}. Correct the export") from error


def _as_logged(
    stored: pa.Table, file: LogFile, group: int, names: Mapping[str, str]
) -> pa.RecordBatch:
    """Return the rows that a row group of the file holds, under the log's names.

    Args:
        stored: its columns as the file has them, one chunk each.
        file: the file.
        group: the row group.
        names: column of the log -> column of the file.
    """
    rows = file.stored_rows[group]
    folder = dict(file.partition)
    # A batch without columns has no length; `_` gives it one.
    columns: dict[str, pa.Array] = {} if stored.num_columns else {"_": pa.nulls(rows)}
    for name, own in names.items():
        if own in stored.column_names:
            chunks = stored.column(own).chunks
            column = chunks[0] if chunks else pa.array([], stored.schema.field(own).type)
            is_key = name in file.inside
            columns[name] = partitions.resolve(column, folder.get(name)) if is_key else column
    for name, value in file.constants.items():
        columns[name] = pa.repeat(value, rows) if value.is_valid else pa.nulls(rows, value.type)
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    is_kept = file.kept(group)
    return batch if is_kept is None else batch.filter(pa.array(is_kept))


def refuse_broken(table: pa.Table) -> None:
    """Refuse what a damaged page may decode to: codes outside their dictionary, cut text.

    Arrow's full validation of a table reads every value. This one reads dictionaries and codes,
    which are what later code indexes with.

    Raises:
        ArrowInvalid: a column is damaged.
    """
    for column in table.itercolumns():
        column.validate()
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            chunk.dictionary.validate(full=True)
            words, codes = len(chunk.dictionary), pc.min_max(chunk.indices)
            lowest, highest = codes["min"].as_py(), codes["max"].as_py()
            if lowest is not None and not 0 <= lowest <= highest < words:
                raise pa.ArrowInvalid(f"codes {lowest} to {highest} of {words} words")


def _identity(rows: pa.RecordBatch, file: LogFile, group: int, catalog: Catalog) -> hashing.Keys:
    """Return the key of each row: of its declared id, else of its position in its file."""
    return _keys_or_positions(rows, file, group, catalog.log.row_id)


def _slice_keys(rows: pa.RecordBatch, file: LogFile, group: int, catalog: Catalog) -> hashing.Keys:
    """Return the key by which each row is sliced; of its position where that column is null."""
    return _keys_or_positions(rows, file, group, catalog.log.slice_by or catalog.log.row_id)


def _keys_or_positions(
    rows: pa.RecordBatch, file: LogFile, group: int, column: str | None
) -> hashing.Keys:
    """Return a key of each row, of a column's value or, where that is null or absent, its position.

    Args:
        rows: all rows of the row group that a table does not delete.
        file: the file they come from.
        group: index of the row group.
        column: column of ids; None takes positions alone.
    """
    ids = rows.column(column) if column and column in rows.schema.names else None
    if ids is not None and not ids.null_count:
        return hashing.keys_of(ids)
    first, stored = sum(file.stored_rows[:group]), file.stored_rows[group]
    positions = hashing.keys_of_positions(hashing.key_of_text(file.path), first, stored)
    # Positions count deleted rows too, so a row keeps its key when its neighbours are deleted.
    is_kept = file.kept(group)
    positions = positions if is_kept is None else positions[is_kept]
    if ids is None:
        return positions
    is_null = ids.is_null().to_numpy(zero_copy_only=False)
    return np.where(is_null, positions, hashing.keys_of(ids))


def _disagreements(rows: pa.RecordBatch, file: LogFile) -> dict[Breach, int]:
    """Count the rows whose partition value inside the file is not that of the file's folder."""
    counts = {
        Breach.of(Kind.OTHER_PARTITION, key): partitions.disagreements(rows.column(key), value)
        for key, value in file.partition
        if key in file.inside
    }
    return {breach: count for breach, count in counts.items() if count}


def _twin(file: LogFile, truth: Snapshot) -> LogFile:
    """Return the truth's file that belongs to a file of the log.

    Raises:
        BadLog: there is none with the same path and row groups.
    """
    for twin in truth.files:
        if twin.path == file.path and twin.group_rows == file.group_rows:
            return twin
    raise BadLog(
        f"no truth with the same row groups lies beside {file.path}, below {truth.uri}; log and "
        "truth were not written together. Run `iak synth` again"
    )


def take_rows(rows: pa.RecordBatch, indices: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Return the rows at these ascending indices."""
    # Neighbours are a slice, which copies nothing; `take` copies every column.
    if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
        return rows.slice(int(indices[0]), len(indices))
    return rows.take(pa.array(indices))


def _with_partition(rows: pa.RecordBatch, file: LogFile) -> pa.RecordBatch:
    """Return the rows with a column for each partition value that the file's folder gives."""
    for key, value in file.exact_partition.items():
        zeros = np.zeros(len(rows), np.int32)
        indices = pa.array(zeros) if value is not None else pa.nulls(len(rows), pa.int32())
        word = pa.array([value or ""], pa.string())
        # `safe=False` skips the check of each code: all of them are 0 or null.
        column = pa.DictionaryArray.from_arrays(indices, word, safe=False)
        rows = rows.append_column(key, column)
    return rows
