"""Take the snapshot of a log: the exact files, row groups and fingerprints of a run.

Folders are pruned by their partition values before anything is opened (`listing.py`). Then the
footer of each file is read (`file_classifier.py`), so that a file that cannot be read is named
before the run starts. Where the folder is a table of a lakehouse, the table's metadata names the
files instead of the folders (`lakehouse.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from iak.pipeline.data import delta, iceberg, lakehouse, listing, partitions, stores
from iak.pipeline.data.breaches import SchemaProblem
from iak.pipeline.data.file_classifier import ClassifiedFile, FileClassifier, classify_all
from iak.pipeline.data.lakehouse import TableFile, TableSnapshot
from iak.pipeline.data.listing import Admits, FileId
from iak.pipeline.data.snapshot import (
    Ignored,
    LogFile,
    Partition,
    Snapshot,
    Unreadable,
    open_folder,
)
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log import FolderNames
from iak.schemas.log_snapshot import (
    IgnoredFile,
    LogFiles,
    QuarantinedFile,
    ReadFile,
    TableVersion,
)


def take_snapshot(
    uri: str,
    *,
    partition_keys: tuple[str, ...],
    folder_names: FolderNames = "key=value",
    admits: Admits = lambda _: True,
    schema_problem: Callable[[pa.Schema], SchemaProblem | None] = lambda _: None,
    version: int | None = None,
) -> Snapshot:
    """List and fingerprint the files whose partition is admitted.

    Args:
        uri: folder of the log, as path or URI; of a table, or the data folder of one.
        partition_keys: keys of the folders, outermost first; empty for a flat folder.
        folder_names: how the folders are named; a table has no need of it.
        admits: called with the partition values known so far (outer keys first); False prunes.
        schema_problem: a file's schema -> why it must be quarantined, or None.
        version: version of a Delta table, or snapshot id of an Iceberg table; None for the newest.

    Raises:
        BadRequest: the folder does not exist, or a table lacks the version or a partition key.
        BadLog: a table format that cannot be read.
    """
    uri = _absolute(uri)
    folder = _find_table(uri)
    if folder is None:
        _refuse_version(uri, version)
        classifier = FileClassifier(
            uri=uri, keys=partition_keys, folder_names=folder_names, schema_problem=schema_problem
        )
        return _plain_snapshot(classifier, admits)
    table = lakehouse.with_joined_keys(_resolved(folder, version), partition_keys)
    classifier = FileClassifier(
        uri=folder.uri, keys=partition_keys, schema_problem=schema_problem, table=table
    )
    return _table_snapshot(classifier, table, admits)


def table_version(uri: str, version: int | None) -> int | None:
    """Return the version that a job pins before it looks at a log more than once.

    Args:
        uri: folder of the log.
        version: version that the catalogue names; None for the newest.

    Returns:
        That version, or the newest one of a table; None for a plain folder.
    """
    folder = _find_table(_absolute(uri))
    if folder is None:
        _refuse_version(uri, version)
        return None
    return version if version is not None else _resolved(folder, None).table.version


def is_table(uri: str) -> bool:
    """Return whether a log's folder is a table, whose metadata names the partition columns."""
    return _find_table(_absolute(uri)) is not None


def _absolute(uri: str) -> str:
    """Return the same folder for workers, which run in other folders."""
    return uri if "://" in uri else str(Path(uri).absolute())


def _find_table(uri: str) -> lakehouse.TableFolder | None:
    """Return the table that a folder belongs to, None for a plain folder.

    Raises:
        BadRequest: there is no such folder.
    """
    filesystem, root = open_folder(uri)
    if stores.kind_of(filesystem, root, uri) != pa.fs.FileType.Directory:
        raise BadRequest(
            f"no folder at {uri}; expected the log's Parquet there. "
            "Check data_root= and the catalogue's log.path"
        )
    return lakehouse.find_table(uri, filesystem, root)


def _refuse_version(uri: str, version: int | None) -> None:
    if version is not None:
        raise BadRequest(
            f"log.version is {version}, but {uri} is a plain folder, which has no versions: "
            "neither _delta_log/ nor metadata/*.metadata.json lies there. Leave log.version out"
        )


def _resolved(folder: lakehouse.TableFolder, version: int | None) -> TableSnapshot:
    if folder.format == "delta":
        return delta.resolve(folder, version)
    return iceberg.resolve(folder, version)


def _plain_snapshot(classifier: FileClassifier, admits: Admits) -> Snapshot:
    """Return the snapshot of a plain folder of files."""
    filesystem, root = open_folder(classifier.uri)
    other_folders: list[tuple[str, str]] = []
    pruned: list[Partition] = []

    def admitted(partition: Partition) -> bool:
        if admits(partition):
            return True
        pruned.append(partition)
        return False

    listed = listing.list_files(
        filesystem, root, (), classifier.keys, admitted, other_folders,
        folder_names=classifier.folder_names,
    )  # fmt: skip
    paths: dict[FileId, str] = {}
    unique, repeated = listing.without_repeats(filesystem, root, listed, paths)
    classified = classify_all(classifier.classify_listed, unique)
    if pruned:
        classified += _files_of_pruned_folders(classifier, classified, admits, paths)
    files = [f for f in classified if isinstance(f, LogFile)]
    return Snapshot(
        uri=classifier.uri,
        files=tuple(sorted(files, key=lambda f: f.path)),
        unreadable=tuple(f for f in classified if isinstance(f, Unreadable)),
        ignored=(
            *(f for f in classified if isinstance(f, Ignored)),
            *(
                Ignored(path=f"{classifier.relative(path)}/", reason=reason)
                for path, reason in other_folders
            ),
            *(Ignored(path=classifier.relative(p), reason=reason) for p, reason in repeated),
        ),
    )


def _files_of_pruned_folders(
    classifier: FileClassifier,
    classified: Sequence[ClassifiedFile],
    admits: Admits,
    paths: dict[FileId, str],
) -> list[LogFile]:
    """Return files with admitted rows from folders whose names are not admitted.

    Where files have the partition's column inside, their values count and not the folder's name. So
    a folder that was pruned by its name may hold rows of the split. The admitted files show whether
    the log is such a log; where there is none, the first readable file does. In any other log,
    pruned folders stay unopened.
    """
    filesystem, root = open_folder(classifier.uri)
    keys, names = classifier.keys, classifier.folder_names
    readable = [f for f in classified if isinstance(f, LogFile)]
    if not readable:
        every = sorted(
            listing.list_files(filesystem, root, (), keys, lambda _: True, [], folder_names=names)
        )
        all_files = map(classifier.classify_listed, every)
        readable = list(islice((f for f in all_files if isinstance(f, LogFile)), 1))
    inside = {key for file in readable for key in file.inside}
    if not inside:
        return []

    def may_hold(partition: Partition) -> bool:
        return admits({key: value for key, value in partition.items() if key not in inside})

    done = {f.path for f in classified}
    listed = listing.list_files(filesystem, root, (), keys, may_hold, [], folder_names=names)
    unique, _ = listing.without_repeats(filesystem, root, listed, paths)
    more = (file for file in unique if classifier.relative(file[0]) not in done)
    files = classify_all(classifier.classify_listed, more)
    return [
        f
        for f in files
        if isinstance(f, LogFile) and f.inside and _holds_admitted_rows(classifier.uri, f, admits)
    ]


def _holds_admitted_rows(uri: str, file: LogFile, admits: Admits) -> bool:
    """Return whether any row of a file is admitted by its values of the partition keys."""
    try:
        combinations = values_inside(Snapshot(uri=uri, files=(file,)), file)
    except BadLog:
        return True  # the job reads the file later, and names the problem then
    return any(admits(file.exact_partition | values) for values, _ in combinations)


def values_inside(snapshot: Snapshot, file: LogFile) -> list[tuple[dict[str, str | None], int]]:
    """Return each combination of the partition values that lie inside a file, with its rows.

    Raises:
        BadLog: the file cannot be decoded.
    """
    parquet = snapshot.open(file)
    folder = dict(file.partition)
    names = file.stored_names(file.inside)
    try:
        table = parquet.read(list(names.values()), use_threads=False)
        columns = {
            key: partitions.resolve(table.column(own).combine_chunks(), folder.get(key))
            for key, own in names.items()
        }
        texts = pa.table({key: column.cast(pa.string()) for key, column in columns.items()})
        texts = texts.filter(pa.array(file.kept_rows()))
    except (pa.ArrowException, OSError) as error:
        raise BadLog(f"{file.path} cannot be decoded: {error}. Write the file again") from error
    counted = texts.group_by(list(names)).aggregate([([], "count_all")])
    rows: list[int] = counted.column("count_all").to_pylist()
    values: list[dict[str, str | None]] = counted.select(list(names)).to_pylist()
    return list(zip(values, rows, strict=True))


def _table_snapshot(classifier: FileClassifier, table: TableSnapshot, admits: Admits) -> Snapshot:
    """Return the snapshot of a table: its metadata names files and partition values."""
    of_files = {key for file in table.files for key in file.partition}
    unknown = [key for key in classifier.keys if key not in of_files | set(table.columns)]
    if unknown and table.files:
        advice = _advice_to_join(unknown, table)
        raise BadRequest(
            f"log.partition_keys names {', '.join(unknown)}, but the {table.table.format} table "
            f"{classifier.uri} has the columns {', '.join(table.columns)}{advice}"
        )

    def admitted(file: TableFile) -> bool:
        return admits({k: file.partition[k] for k in classifier.keys if k in file.partition})

    classified = classify_all(classifier.classify_of_table, filter(admitted, table.files))
    return Snapshot(
        uri=classifier.uri,
        files=tuple(f for f in classified if isinstance(f, LogFile)),
        unreadable=tuple(f for f in classified if isinstance(f, Unreadable)),
        table=table.table,
    )


def _advice_to_join(keys: Sequence[str], table: TableSnapshot) -> str:
    """Return what to do where a key joins columns that do not partition the table."""
    if not any(set(key.split("/")) <= set(table.columns) for key in keys):
        return ""
    return (
        ". A key with a slash joins columns that the table is partitioned by, and it is not by "
        "these. Partition it so; or add a column with the date, and name that one in "
        "partition_keys and date_key; or name a column of times as event_time"
    )


def partition_values(
    uri: str,
    partition_keys: tuple[str, ...],
    key: str,
    *,
    folder_names: FolderNames = "key=value",
    version: int | None = None,
) -> set[str | None]:
    """Return each value of one partition key, from folder names or from a table's metadata.

    A table that is not partitioned by the key has it as a column, which is read.

    Args:
        uri: folder of the log.
        partition_keys: keys of the folders, outermost first.
        key: one of them.
        folder_names: how the folders are named.
        version: version of a table; None for the newest.
    """
    filesystem, root = open_folder(uri)
    if stores.kind_of(filesystem, root, uri) != pa.fs.FileType.Directory:
        return set()
    if folder := _find_table(_absolute(uri)):
        return _values_of_table(folder, partition_keys, key, version)
    # Where folders are values alone, a file's name is one too, and only of the innermost key.
    named = (
        partition_keys
        if folder_names == "value"
        else partition_keys[: partition_keys.index(key) + 1]
    )
    values: set[str | None] = set()
    for path, partition in listing.list_files(
        filesystem, root, (), named, lambda _: True, [], folder_names=folder_names
    ):
        value = dict(partition).get(key)
        is_complete = len(partition) == len(named)
        # A folder without a data file is none of the log's. One such file is enough.
        if is_complete and value not in values and not listing.not_parquet(filesystem, path):
            values.add(value)
    return values


def _values_of_table(
    folder: lakehouse.TableFolder, keys: tuple[str, ...], key: str, version: int | None
) -> set[str | None]:
    """Return each value of a partition key of a table.

    The metadata give the value of a file. Files are read where they have the column instead, or
    where so many rows are deleted that none may be left.
    """
    table = lakehouse.with_joined_keys(_resolved(folder, version), keys)
    classifier = FileClassifier(
        uri=folder.uri, keys=keys, schema_problem=lambda _: None, table=table
    )
    is_known = [key in f.partition and not len(f.deleted) for f in table.files]
    values = {f.partition[key] for f, known in zip(table.files, is_known, strict=True) if known}
    others = [f for f, known in zip(table.files, is_known, strict=True) if not known]
    for file in classify_all(classifier.classify_of_table, others):
        if isinstance(file, LogFile) and file.rows:
            snapshot = Snapshot(uri=folder.uri, files=(file,))
            is_inside = key in file.inside
            rows = [v for v, _ in values_inside(snapshot, file)] if is_inside else []
            values |= {row[key] for row in rows or [file.exact_partition]}
    return values


def describe(snapshot: Snapshot) -> LogFiles:
    """Return the files of a snapshot, for the run record."""
    table = snapshot.table
    return LogFiles(
        uri=snapshot.uri,
        table=TableVersion(**asdict(table)) if table else None,
        fingerprint=snapshot.fingerprint,
        rows=snapshot.rows,
        files=tuple(_described(file) for file in snapshot.files),
        quarantined_files=tuple(
            QuarantinedFile(path=u.path, reason=u.reason, rows=u.rows, bytes=u.size_bytes)
            for u in snapshot.unreadable
        ),
        ignored_files=tuple(IgnoredFile(path=i.path, reason=i.reason) for i in snapshot.ignored),
    )


def _described(file: LogFile) -> ReadFile:
    """Return a file for the run record. What it does not have is left unset."""
    fields: dict[str, str | int] = {}
    if file.content:
        fields |= {"features": file.content.features, "others": file.content.others}
    if deleted := sum(file.stored_rows) - file.rows:
        fields["deleted_rows"] = deleted
    return ReadFile.model_validate(
        {
            "path": file.path,
            "rows": file.rows,
            "bytes": file.size_bytes,
            "fingerprint": file.fingerprint,
            **fields,
        }
    )
