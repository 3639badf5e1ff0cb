"""Check that the ids of one table are of one kind: whole numbers or text.

The number 7 and the text "7" read different rows. So all ids that read one table must be of one
kind, over all files and over all features that share the table. Footers say the kind, and a base
stores the kinds that it learned.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from iak.pipeline.data import normal
from iak.pipeline.data.snapshot import LogFile, Snapshot, Unreadable
from iak.pipeline.data.written import Written, written_columns
from iak.pipeline.errors import BadLog, WrongBase
from iak.schemas.feature import FeatureSpec, NumericSpec, table_of
from iak.schemas.log import Catalog

WHOLE, TEXT = "whole numbers", "text"
Kinds = Mapping[str, str]
"""Table -> kind of the ids that read it; a cross has the kind of each of its columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Ids that should be of one kind and are of several."""

    name: str
    """`column user_id`, or `table item_id`."""
    column: str
    parts: Mapping[str, tuple[str, ...]]
    """Kind, with the column where several share a table -> the files of that kind."""

    def __str__(self) -> str:
        parts = [
            f"{kind} in {len(files):,} file{'s' if len(files) > 1 else ''} ({files[0]}"
            f"{', ...' if len(files) > 1 else ''})"
            for kind, files in self.parts.items()
        ]
        return f"ids of {self.name} are {' and '.join(parts)}; they share no row of a table"


def id_kind(actual: pa.DataType) -> str | None:
    """Return the kind of ids in a column of this type; None where it holds only nulls."""
    is_ = pa.types
    if is_.is_null(actual):
        return None
    if _is_list(actual):
        # Where all lists of a file are empty, writers store lists of nulls, which hold no id.
        return id_kind(actual.value_type)
    plain = normal.plain_type(actual, normal.ID)
    if is_.is_dictionary(plain):
        plain = plain.value_type
    return WHOLE if is_.is_integer(plain) or is_.is_boolean(plain) else TEXT


def _is_list(actual: pa.DataType) -> bool:
    """Return whether a column of this type has many ids in each row."""
    is_ = pa.types
    lists = (is_.is_list, is_.is_large_list, is_.is_list_view, is_.is_large_list_view)
    return is_.is_fixed_size_list(actual) or any(check(actual) for check in lists)


def mixtures(snapshot: Snapshot, catalog: Catalog) -> Iterator[Mixture]:
    """Yield the columns, and then the tables, whose ids are of more than one kind."""
    log = catalog.log
    files = _kinds_in_files(snapshot, catalog)
    files |= {
        key: {TEXT: tuple(f.path for f in snapshot.files)} for key in log.partition_keys if key
    }
    mixed = {column for column, kinds in files.items() if len(kinds) > 1}
    for column in sorted(mixed):
        yield Mixture(name=column, column=column, parts=files[column])
    for table, features in _readers(catalog).items():
        columns = list(dict.fromkeys(c for f in features for c in f.columns))
        parts = {
            f"{kind} in {column}": paths
            for column in columns
            if column not in mixed
            for kind, paths in files.get(column, {}).items()
            if paths
        }
        if len({part.rpartition(" in ")[0] for part in parts}) > 1:
            yield Mixture(name=f"table {table}", column=", ".join(columns), parts=parts)


def _id_columns(catalog: Catalog) -> Iterable[str]:
    """Return the columns inside the files whose ids must be of one kind."""
    log = catalog.log
    columns = [c for f in catalog.features if not isinstance(f, NumericSpec) for c in f.columns]
    columns += [c for c in (log.user, log.slice_by) if c]
    return [c for c in dict.fromkeys(columns) if c not in log.partition_keys]


def _kinds_in_files(snapshot: Snapshot, catalog: Catalog) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return column -> kind of its ids -> the files with this kind."""
    written = written_columns(catalog)
    return {
        column: _files_by_kind(snapshot.files, column, written.get(column))
        for column in _id_columns(catalog)
    }


def _files_by_kind(
    files: Sequence[LogFile], column: str, written: Written | None
) -> dict[str, tuple[str, ...]]:
    by_kind: dict[str, list[str]] = {}
    kinds: dict[pa.DataType, str | None] = {}  # few types over many files
    for file in files:
        for name, kind in file.columns:
            if name == column:
                if kind not in kinds:
                    none = pa.nulls(0, kind)
                    kinds[kind] = id_kind(written.read(none).type if written else kind)
                if word := kinds[kind]:
                    by_kind.setdefault(word, []).append(file.path)
    return {kind: tuple(paths) for kind, paths in by_kind.items()}


def _readers(catalog: Catalog) -> dict[str, list[FeatureSpec]]:
    """Return the features of each table whose ids are one column; crosses are left out."""
    readers: dict[str, list[FeatureSpec]] = {}
    for feature in catalog.keyed:
        if feature.kind in ("categorical", "list"):
            readers.setdefault(table_of(feature) or feature.name, []).append(feature)
    return readers


def without_odd_floats(snapshot: Snapshot, catalog: Catalog) -> Snapshot:
    """Return a snapshot without the files whose ids are floats while other files have them exact.

    Whole numbers in floats are ids where all files have them so. Where some files have not, an
    export changed on its way, and nobody knows which digits it lost: these files are unreadable.
    """
    odd: dict[str, str] = {}
    for column in _id_columns(catalog):
        types = {f.path: dict(f.columns).get(column, pa.null()) for f in snapshot.files}
        floats = {path: kind for path, kind in types.items() if pa.types.is_floating(_ids(kind))}
        if any(not pa.types.is_null(_ids(k)) for p, k in types.items() if p not in floats):
            for path, kind in floats.items():
                odd.setdefault(path, f"{column}: {kind}, expected id as in other files")
    if not odd:
        return snapshot
    unreadable = [
        Unreadable(
            path=file.path,
            reason=odd[file.path],
            expected=("id",),
            partition=file.partition,
            size_bytes=file.size_bytes,
            group_rows=file.group_rows,
            columns=file.columns,
        )
        for file in snapshot.files
        if file.path in odd
    ]
    return replace(
        snapshot,
        files=tuple(file for file in snapshot.files if file.path not in odd),
        unreadable=tuple(sorted((*snapshot.unreadable, *unreadable), key=lambda f: f.path)),
    )


def _ids(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's single ids: of a list's entries, of a dictionary's values."""
    while _is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def refuse_mixtures(snapshot: Snapshot, catalog: Catalog) -> None:
    """Refuse a log whose ids of one column or one table are of two kinds.

    Raises:
        BadLog: the message names the columns, the kinds, and the number of files of each.
    """
    if mixed := [str(mixture) for mixture in mixtures(snapshot, catalog)]:
        listing = "\n".join(f"  {line}" for line in mixed)
        raise BadLog(
            f"ids of the log '{catalog.log.name}' change their kind:\n{listing}\n"
            "Write all of them as one kind, or give columns of different kinds tables of their own"
        )


def kinds_of(rows: pa.RecordBatch, catalog: Catalog) -> dict[str, str]:
    """Return the kind of the ids of each table in rows of plain types.

    A column of nothing but nulls says nothing: it may be one that its file lacks. Nor does one of
    empty lists.
    """
    columns = {c for f in catalog.features for c in f.columns}
    values = {c: rows.column(c) for c in columns}
    kinds = {c: id_kind(v.type) for c, v in values.items() if _has_ids(v)}
    return dict(_by_table(catalog, kinds))


def _has_ids(values: pa.Array) -> bool:
    """Return whether any row has an id."""
    ids = values.flatten() if _is_list(values.type) else values
    return bool(ids.null_count < len(ids))


def _by_table(catalog: Catalog, kinds: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    for feature in catalog.keyed:
        if isinstance(feature, NumericSpec):
            continue
        own = [kinds.get(column) for column in feature.columns]
        if all(own):
            yield table_of(feature) or feature.name, " x ".join(str(kind) for kind in own)


def refuse_other_kinds(snapshot: Snapshot, catalog: Catalog, learned: Kinds) -> None:
    """Refuse a log whose ids are of another kind than those that a base learned.

    Args:
        snapshot: the files that would be read.
        catalog: the log's catalogue.
        learned: the base's kinds; empty where it was published before they were kept.

    Raises:
        WrongBase: the message names the tables, both kinds, and what to do.
    """
    columns = _kinds_in_files(snapshot, catalog)
    kinds: dict[str, str | None] = {c: next(iter(files), None) for c, files in columns.items()}
    kinds |= dict.fromkeys(catalog.log.partition_keys, TEXT)
    refuse_change(dict(_by_table(catalog, kinds)), learned)


def refuse_change(kinds: Kinds, learned: Kinds) -> None:
    """Refuse tables whose ids are of another kind than was learned.

    Args:
        kinds: table -> kind of its ids in the log.
        learned: table -> kind of its ids that the base learned.

    Raises:
        WrongBase: the message names the tables and both kinds.
    """
    wrong = [
        f"table {name}: the log has {kind}, the base learned {learned[name]}"
        for name, kind in kinds.items()
        if learned.get(name, kind) != kind
    ]
    if wrong:
        listing = "\n".join(f"  {line}" for line in wrong)
        raise WrongBase(
            f"ids are of another kind than those the base was trained on:\n{listing}\n"
            "None of them would be found. Write them as before, or pre-train a new base"
        )
