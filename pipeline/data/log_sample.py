"""Read footers and a bounded sample of a Parquet folder that has no catalogue yet.

Columns are read from footers, and values from rows that are
spread evenly over the row groups.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from iak.pipeline.data import logs, normal, structs
from iak.pipeline.data.guess_folders import guess_folders
from iak.pipeline.data.snapshot import LogFile, Snapshot, open_folder
from iak.pipeline.data.written import WrittenNumber
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log import FolderNames

Floats = npt.NDArray[np.float64]
MISSING = "lack it"
"""End of the reason where some files lack a column."""
_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+(_level_\d+)?")
"""Names that pandas gives to the index of rows, in Parquet and in CSV."""
_TEXT = re.compile(r"\.(csv|tsv|txt|dat|log|jsonl?|ndjson)(\.(gz|zst|bz2|zip))?$")
"""End of the name of a file of text."""
_EXACT = 2.0**53
"""Size from which on floats skip whole numbers."""
_BATCH_ROWS = 65_536
"""Rows that are decoded at a time."""
_MAX_ROW_GROUPS = 64
"""Most row groups that are read."""
_RUN_ROWS = 64
"""Consecutive rows that are kept together, so that values which repeat within a request repeat in
the sample."""
_DECODED_ROWS = 4_000_000
"""Most rows that are decoded to draw the sample from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSample:
    """Rows of a log, its footers and its folder names."""

    uri: str
    snapshot: Snapshot
    partition_keys: tuple[str, ...]
    partitions: Mapping[str, tuple[str | None, ...]]
    """Values of each partition key, sorted, a null last."""
    folder_names: FolderNames = "key=value"
    """How the folders are named."""
    rows: pa.Table
    """Sampled rows, partition keys among the columns as text."""
    uneven: Mapping[str, str]
    """Columns that some files lack, or that have several types -> a description."""
    floats: Mapping[str, str] = field(default_factory=dict)
    """Columns that are whole numbers in some files and floats in others -> a description."""
    unread: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Columns of types that no catalogue describes, such as structs, and those that pandas wrote
    for itself; they are not sampled."""


def read_sample(uri: str, *, rows: int) -> LogSample:
    """Read footers, folder names and about `rows` rows of a Parquet folder.

    Args:
        uri: folder of the log, as path or URI.
        rows: rows to keep.

    Raises:
        BadRequest: there is no such folder.
        BadLog: no Parquet file below it can be read, or all are empty.
    """
    uri = innermost_folder(uri)
    folders = guess_folders(uri)
    keys = folders.keys
    schemas: list[pa.Schema] = []

    def collect(schema: pa.Schema) -> None:
        schemas.append(schema)

    snapshot = logs.take_snapshot(
        uri, partition_keys=keys, folder_names=folders.names, schema_problem=collect
    )
    if not snapshot.rows:
        reasons = "; ".join(f"{u.path}: {u.reason}" for u in snapshot.unreadable[:3])
        raise BadLog(
            f"no row of Parquet can be read below {uri}: {reasons or 'no Parquet file'}. "
            + (_as_parquet(uri) or "Give the folder that holds the log's files")
        )
    types, uneven, floats = _columns(schemas)
    inside = {name: kind for name, kind in types.items() if name not in keys}
    sampled = _rows(snapshot, inside, keys, wanted=rows)
    unread = {name: kind for name, kind in inside.items() if _is_unread(name, kind, sampled)}
    return LogSample(
        uri=uri,
        snapshot=snapshot,
        partition_keys=keys,
        folder_names=folders.names,
        partitions={key: _values(snapshot, key) for key in keys},
        rows=sampled.drop_columns([name for name in sampled.column_names if name in unread]),
        uneven={name: difference for name, difference in uneven.items() if name not in keys},
        floats=floats,
        unread=unread,
    )


def without_rows(sample: LogSample, column: str, values: Sequence[str]) -> LogSample:
    """Return a sample without the rows that have one of these values in a column of text.

    Where the column is a partition key, their files are left out too, and so are the columns that
    no other file has.
    """
    rows = sample.rows
    is_wanted = pc.invert(pc.is_in(rows.column(column), pa.array(values, pa.string())))
    rows = rows.filter(pc.fill_null(is_wanted, True))
    if column not in sample.partition_keys:
        return replace(sample, rows=rows)
    files = tuple(f for f in sample.snapshot.files if dict(f.partition).get(column) not in values)
    snapshot = replace(sample.snapshot, files=files)
    types, uneven, floats = _columns([pa.schema(list(file.columns)) for file in files])
    keys = sample.partition_keys
    absent = [name for name in rows.column_names if name not in types and name not in keys]
    return replace(
        sample,
        snapshot=snapshot,
        partitions={key: _values(snapshot, key) for key in keys},
        rows=rows.drop_columns(absent),
        uneven={name: why for name, why in uneven.items() if name not in keys},
        floats=floats,
        unread={name: kind for name, kind in sample.unread.items() if name in types},
    )


def _as_parquet(uri: str) -> str:
    """Return how to write files of text as Parquet; empty where a folder has none."""
    filesystem, root = open_folder(uri)
    below = filesystem.get_file_info(pa.fs.FileSelector(root, recursive=True))
    names = sorted(i.path[len(root) :].strip("/") for i in below if _TEXT.search(i.base_name))
    if not names:
        return ""
    what = "read_ndjson" if ".json" in names[0] else "read_csv"
    return (
        f"{names[0]} is text: write it as Parquet, with names and types of its columns "
        f"(polars.{what}(FILE).write_parquet(FILE))"
    )


def innermost_folder(uri: str) -> str:
    """Return the first folder at or below `uri` with files, partitions or several folders.

    A data set is often shipped as a folder of notes around the folder of its events.

    Raises:
        BadRequest: there is no such folder.
    """
    filesystem, root = open_folder(uri)
    kind = filesystem.get_file_info(root).type
    if kind == pa.fs.FileType.File:
        raise BadRequest(
            f"{uri} is a file; give its folder, {uri.rpartition('/')[0]}. All Parquet files below "
            "are one log, so lay one that is a log of its own into a folder of its own"
        )
    if kind != pa.fs.FileType.Directory:
        raise BadRequest(f"no folder at {uri}; give the folder that holds the log's Parquet files")
    entries = filesystem.get_file_info(pa.fs.FileSelector(root))
    shown = [info for info in entries if not info.base_name.startswith((".", "_"))]
    folders = [info for info in shown if info.type == pa.fs.FileType.Directory]
    has_data = any(
        info.type == pa.fs.FileType.File and info.base_name.endswith((".parquet", ".parq"))
        for info in shown
    )
    marked = any(info.base_name.startswith((".hoodie", "_delta_log")) for info in entries)
    # A year is a folder of one log, though no other year may lie beside it yet.
    is_part = len(folders) == 1 and ("=" in folders[0].base_name or folders[0].base_name.isdigit())
    if has_data or marked or len(folders) != 1 or is_part:
        return uri
    return innermost_folder(f"{uri.rstrip('/')}/{folders[0].base_name}")


def _values(snapshot: Snapshot, key: str) -> tuple[str | None, ...]:
    values = {dict(file.partition).get(key) for file in snapshot.files}
    return tuple(sorted(values, key=lambda value: (value is None, value or "")))


def _columns(
    schemas: Sequence[pa.Schema],
) -> tuple[dict[str, pa.DataType], dict[str, str], dict[str, str]]:
    """Return each column's type in most files, and the columns that differ over files.

    Columns that are whole numbers in some files and floats in others are apart from those that
    differ otherwise.
    """
    floats: dict[str, str] = {}
    types: dict[str, Counter[pa.DataType]] = {}
    twice: set[str] = set()
    for schema in schemas:
        twice |= {name for name, count in Counter(schema.names).items() if count > 1}
        for column in schema:
            types.setdefault(column.name, Counter())[column.type] += 1
    uneven = dict.fromkeys(sorted(twice), "a file holds two columns of this name")
    types = {name: counts for name, counts in types.items() if name not in twice}
    for name, counts in types.items():
        missing = len(schemas) - counts.total()
        if len(counts) > 1:  # a file of nulls alone fits every type
            counts.pop(pa.null(), None)
        kinds = {kind_of(kind) for kind in counts}
        if kinds == {"whole", "float"}:
            # pandas writes whole numbers as floats in the files where one is missing.
            odd = sum(count for kind, count in counts.items() if kind_of(kind) == "float")
            floats[name] = f"whole numbers, but floats in {odd:,} of {len(schemas):,} files"
            types[name], kinds = Counter({pa.float64(): counts.total()}), {"float"}
        if missing and len(kinds) == 1:
            uneven[name] = f"{missing:,} of {len(schemas):,} files {MISSING}"
        elif len(kinds) > 1:
            listing = ", ".join(f"{kind} in {count:,}" for kind, count in counts.most_common())
            uneven[name] = f"its type differs over files: {listing}"
    return {name: counts.most_common(1)[0][0] for name, counts in types.items()}, uneven, floats


def kind_of(actual: pa.DataType) -> str:
    """Return the kind of a type: bool, whole, float, text, time, a list of one, or other."""
    is_ = pa.types
    if is_.is_dictionary(actual):
        return kind_of(actual.value_type)
    if isinstance(actual, pa.BaseExtensionType):
        return kind_of(actual.storage_type)
    if is_bytes(actual):
        return "text"  # a log may hold text so; of other bytes the sample has nulls
    named = (
        ("bool", is_.is_boolean),
        ("whole", is_.is_integer),
        ("float", is_.is_floating),
        ("float", is_.is_decimal),
        ("text", is_.is_string),
        ("text", is_.is_large_string),
        ("text", is_.is_string_view),
        ("time", is_.is_timestamp),
        ("time", is_.is_date),
        ("time", is_.is_duration),
        ("null", is_.is_null),
    )
    for name, test in named:
        if test(actual):
            return name
    lists = (is_.is_list, is_.is_large_list, is_.is_fixed_size_list, is_.is_list_view)
    if any(test(actual) for test in lists) or is_.is_large_list_view(actual):
        return f"list of {kind_of(actual.value_type)}"
    return "other"


def is_bytes(actual: pa.DataType) -> bool:
    """Return whether a type is one of bytes, which may be those of a text."""
    is_ = pa.types
    checks = (is_.is_binary, is_.is_large_binary, is_.is_binary_view, is_.is_fixed_size_binary)
    return any(check(actual) for check in checks)


def _rows(
    snapshot: Snapshot, inside: Mapping[str, pa.DataType], keys: Sequence[str], *, wanted: int
) -> pa.Table:
    """Return about `wanted` rows, spread over row groups and within them."""
    groups = [
        (file, group, count)
        for file in snapshot.files
        for group, count in enumerate(file.group_rows)
        if count
    ]
    mean = sum(count for _, _, count in groups) / len(groups)
    # Fewer row groups where they are long: whole groups are decoded.
    most = int(np.clip(_DECODED_ROWS / mean, 1, _MAX_ROW_GROUPS))
    picked = [groups[index] for index in evenly(len(groups), most)]
    stride = max(sum(count for _, _, count in picked) // wanted, 1)
    readable = {name: kind for name, kind in inside.items() if _is_read(kind)}
    parts = [
        part
        for file, group, _ in picked
        for part in _strided(snapshot, file, group, readable, keys, stride)
    ]
    if not parts:
        raise BadLog(
            f"no row group below {snapshot.uri} can be described though footers are whole: the "
            "data are damaged, or the files name their columns differently from their table. "
            "Write the files again, or write the catalogue by hand (schemas/README.md)"
        )
    return _with_whole_numbers(pa.concat_tables(parts))


def is_index(name: str) -> bool:
    """Return whether a column's name is one that pandas gives to the index of its rows."""
    return bool(_INDEX.fullmatch(name))


def _is_read(kind: pa.DataType) -> bool:
    return not kind_of(kind).endswith(("other", "null"))


def _is_unread(name: str, kind: pa.DataType, rows: pa.Table) -> bool:
    """Return whether no feature can read a column, by its name or type, or by its bytes."""
    if is_index(name) or not _is_read(kind):
        return True
    return is_bytes(kind) and rows.column(name).null_count == len(rows)


def _with_whole_numbers(rows: pa.Table) -> pa.Table:
    """Return the rows with floats as whole numbers, where all are whole and some are null.

    Where none is null, only an id is written so by mistake. A float that skips whole numbers holds
    no id.
    """
    for index, column in enumerate(rows.columns):
        if not (pa.types.is_floating(column.type) and column.null_count < len(column)):
            continue
        name = rows.schema.names[index]
        known = pc.if_else(pc.is_nan(column), None, column)
        is_whole = pc.and_(pc.equal(known, pc.floor(known)), pc.less(pc.abs(known), _EXACT))
        is_odd = known.null_count or name.lower().endswith(("id", "ids"))
        if is_odd and pc.all(is_whole).as_py():
            rows = rows.set_column(index, name, known.cast(pa.int64()))
    return rows


def _strided(
    snapshot: Snapshot,
    file: LogFile,
    group: int,
    types: Mapping[str, pa.DataType],
    keys: Sequence[str],
    stride: int,
) -> Iterator[pa.Table]:
    """Yield every `stride`-th run of a row group; nothing where it cannot be decoded."""
    parquet = snapshot.open(file)
    present = [n for n in types if n in structs.with_fields(parquet.schema_arrow).names]
    if not present:
        return  # a table format that maps its columns' names; rows of nulls would mislead
    try:
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=present):
            indices = np.arange(len(batch))
            rows = batch.take(pa.array(indices[indices // _RUN_ROWS % stride == 0]))
            rows = structs.with_field_columns(rows)
            columns = {name: _plain(rows, name, types[name]) for name in types}
            for key in keys:
                value = dict(file.partition).get(key)
                columns[key] = pa.array([value] * len(rows), pa.string())
            yield pa.table(columns)
    except (pa.ArrowException, OSError):
        return


def _plain(rows: pa.RecordBatch, name: str, wanted: pa.DataType) -> pa.Array:
    """Return a column in a simple type, the same for all files; null where a file has another."""
    simple = _simple(wanted)
    kinds = (kind_of(rows.column(name).type) if name in rows.schema.names else "", kind_of(wanted))
    if kinds[0] != kinds[1] and kinds != ("whole", "float"):
        return pa.nulls(len(rows), simple)
    column = rows.column(name)
    if pa.types.is_string(simple):
        try:
            column = normal.plain(column, normal.ID)
        except pa.ArrowInvalid:
            return pa.nulls(len(rows), simple)
    return column.cast(simple, safe=False)


def _simple(actual: pa.DataType) -> pa.DataType:
    kind = kind_of(actual)
    if kind.startswith("list of "):
        value = actual.value_type if not pa.types.is_dictionary(actual) else pa.null()
        return pa.list_(_simple(value))
    simple = {"bool": pa.bool_(), "whole": pa.int64(), "float": pa.float64(), "text": pa.string()}
    return simple.get(kind, actual)


def evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` of the indices below `count`, spread evenly, the last one included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def amounts(column: pa.ChunkedArray) -> Floats | None:
    """Return numbers, also those that are text; None where a column has something else.

    A text that is empty is NaN.
    """
    kind = kind_of(column.type)
    if kind in ("whole", "float"):
        return numbers(column)
    if kind != "text":
        return None
    texts = column.combine_chunks().cast(pa.string())
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    read = WrittenNumber(word=None).read(texts)
    is_number = len(read) > read.null_count == texts.null_count
    return numbers(pa.chunked_array([read])) if is_number else None


def numbers(column: pa.ChunkedArray) -> Floats:
    """Return a column of numbers, booleans or times as floats; NaN for null and infinity."""
    if pa.types.is_duration(column.type):
        column = normal.since_1970(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        column = pc.divide(column.cast(pa.float64(), safe=False), 1e6)
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values), values, np.nan)
