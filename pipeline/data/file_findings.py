"""Find problems of a log that footers and folder names show, for `iak check`."""

from collections.abc import Iterator, Sequence

from iak.pipeline.data import (
    contract,
    kinds,
    names,
    nearest,
    splits,
)
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.file_problems import by_reason, file_problems, null_words
from iak.pipeline.data.notice import EXAMPLES, refusal
from iak.pipeline.data.snapshot import Snapshot, Unreadable
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog, LogSpec


def name_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Yield partition keys and columns that the catalogue names and the log does not have."""
    try:
        names.refuse_unknown_partition_keys(snapshot.uri, catalog)
    except PipelineError as error:
        yield refusal(str(error), snapshot.uri, snapshot.rows)
    columns = names.columns_of(snapshot)
    if not columns:
        return
    has = f"The files have: {nearest.listed(columns)}"
    for setting, column, line in names.unknown_columns(catalog, columns, uri=snapshot.uri):
        yield Finding(
            level="refuse",
            what=f"{setting} names the column '{column}', which no file has",
            column=column,
            count=1,
            unit="values",
            remedy=f"{line} {has}".strip(),
        )
    for column in sorted(catalog.optional_columns - columns):
        yield Finding(
            level="warn",
            what=f"no file has the optional column {column}",
            column=column,
            count=len(snapshot.files),
            unit="files",
            remedy=f"It is null everywhere.{nearest.nearest(column, columns)} {has}",
        )


def partition_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Yield folder names that are not numbers although features read them as numbers."""
    partitions = (dict(file.partition) for file in snapshot.files)
    for key, text in contract.partition_problems(partitions, catalog).items():
        what = f"a folder says {key}={text}, and a feature reads {key} as a number"
        yield refusal(what, snapshot.uri, snapshot.rows)


def kind_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Yield columns and tables with ids of two kinds."""
    rows = {file.path: file.rows for file in snapshot.files}
    for mixture in kinds.mixtures(snapshot, catalog):
        least = min(mixture.parts.values(), key=len)
        yield Finding(
            level="refuse",
            what=str(mixture),
            column=mixture.column,
            count=len(least),
            unit="files",
            share=sum(rows.get(path, 0) for path in least) / max(snapshot.rows, 1),
            examples=least[:EXAMPLES],
            remedy="Write all of them as one kind, or give other columns tables of their own",
        )


def file_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Yield files that cannot be read, have no date or have no rows."""
    yield from _unreadable_files(snapshot, catalog)
    if not snapshot.files and not snapshot.unreadable:
        ignored = len(snapshot.ignored)
        extent = f"none of {ignored:,} files and folders there is read" if ignored else "at all"
        yield refusal(
            f"no Parquet file {'of the log: ' if ignored else ''}{extent}", snapshot.uri, 0
        )
    if catalog.log.date_key:
        yield from _undated_files(snapshot, catalog.log.date_key, catalog.log)
    empty = [f.path for f in snapshot.files if not f.rows]
    if empty:
        yield Finding(
            level="warn",
            what="no rows",
            column="-",
            count=0,
            examples=tuple(empty[:EXAMPLES]),
            remedy=f"Nothing to read in {len(empty):,} files; was the export empty?",
        )


def _unreadable_files(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Yield a finding for each reason why files cannot be read."""
    total = _count_rows(snapshot)
    for files in by_reason(snapshot.unreadable):
        rows = sum(u.rows or 0 for u in files)
        reason = files[0].reason
        lost_rows = f"; {rows:,} rows lost" if rows else ""
        if snapshot.files and all(_is_only_predicted(file, catalog) for file in files):
            yield _only_predicted(files, rows)
            continue
        yield Finding(
            level="quarantine" if snapshot.files else "refuse",
            what=f"{reason} ({len(files):,} of {_count_files(snapshot):,} files{lost_rows})",
            column="-",
            count=len(files),
            unit="files",
            share=rows / total if total else 0.0,
            examples=tuple(u.path for u in files[:EXAMPLES]),
            remedy=_remedy_of(files[0], catalog),
        )


def _undated_files(snapshot: Snapshot, date_key: str, log: LogSpec) -> Iterator[Finding]:
    """Yield the files whose folder names no date, as one finding."""
    undated = [
        f
        for f in snapshot.files
        if date_key not in f.inside and splits.day_of(splits.partition_of(f, date_key), log) is None
    ]
    if not undated:
        return
    days = dict.fromkeys(splits.partition_of(f, date_key) or "null" for f in undated)
    more = f", and {len(days) - 1} more such values" if len(days) > 1 else ""
    kind, form = ("number of a day", "by numbers") if log.date_unit else ("date", "YYYY-MM-DD")
    rows = sum(f.rows for f in undated)
    yield Finding(
        level="quarantine",
        what=f"partition {date_key}={next(iter(days))} is not a {kind}{more}",
        column=date_key,
        count=rows,
        share=rows / max(_count_rows(snapshot), 1),
        examples=tuple(f.path for f in undated[:EXAMPLES]),
        remedy=f"Name the folders {form}; no dated split selects their rows",
    )


def folder_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield files and folders that are not part of the log, and folders named `null`."""
    for problem in file_problems(snapshot):
        if problem.is_ignored:
            yield Finding(
                level="warn",
                what=problem.message,
                examples=problem.examples,
                column="-",
                count=problem.files,
                unit="files",
                remedy="It is not read; move it away, or name its folder as the others",
            )
    for key, rows in null_words(snapshot).items():
        yield Finding(
            level="warn",
            what=f"folder {key}=null is read as the word null",
            column=key,
            count=rows,
            remedy="If it is the null value, name it __HIVE_DEFAULT_PARTITION__",
        )


def _is_only_predicted(file: Unreadable, catalog: Catalog) -> bool:
    """Return whether a file lacks labels alone, and no split has rows of its folder."""
    labels, values = {task.label for task in catalog.tasks}, dict(file.partition)
    is_read = (
        all(values[key] in wanted for key, wanted in split.where.items() if key in values)
        for split in catalog.splits.values()
    )
    return bool(file.missing) and labels >= {*file.missing} and not any(is_read)


def _only_predicted(files: Sequence[Unreadable], rows: int) -> Finding:
    return Finding(
        level="warn",
        what=f"{rows:,} rows have no column {', '.join(files[0].missing)}, and no split has them",
        column="-",
        count=len(files),
        unit="files",
        examples=tuple(file.path for file in files[:EXAMPLES]),
        remedy="iak predict can predict them",
    )


def _remedy_of(file: Unreadable, catalog: Catalog) -> str:
    """Return what to do about files that are skipped for the reason of this one."""
    remedy = "Write the file again, or change the catalogue; it is skipped"
    # Of a file whose footer cannot be read no column is known.
    names = {name for name, _ in file.columns}
    if names and contract.missing_columns(names, catalog):
        remedy = (
            "Write the files again, or set optional = true where only features read the column: "
            "then it is null there. The files are skipped"
        )
    return f"{contract.type_advice(file.expected)} {remedy}".strip()


def _count_files(snapshot: Snapshot) -> int:
    return len(snapshot.files) + len(snapshot.unreadable)


def _count_rows(snapshot: Snapshot) -> int:
    """Return the rows of all files, with those of unreadable files as far as they are known."""
    return snapshot.rows + sum(u.rows or 0 for u in snapshot.unreadable)
