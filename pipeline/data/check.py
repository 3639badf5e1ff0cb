"""Footers and a sample -> findings: each with its file, column, count and remedy."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from pipeline.data import contract, features, logs, reader, splits
from pipeline.data.contract import Finding, Level
from pipeline.data.dates import LogDates
from pipeline.data.logs import Snapshot
from pipeline.data.reader import Piece
from pipeline.data.splits import Selection, Split
from pipeline.data.view import (
    NO_DAYS,
    DaysByFile,
    date_findings,
    read_dates,
    refuse_time_unit,
    told_window,
)
from pipeline.data.window_findings import find_in_windows, find_repeated_ids
from pipeline.errors import PipelineError
from schemas.log import Catalog

_REMEDIES = {
    "differs from the folder's": "The file's counts; Iceberg writes a space as +, null as null",
    "null domain key": "Fill the key, or drop the rows; they are skipped",
    "null user": "Fill the user, or take log.user out of the catalogue; they are skipped",
    "label outside": "A label is 0, 1 or null; mend the export. They are skipped",
    "without": "A conversion needs its click; mend the join. They are skipped",
    "undeclared domain": "Add it to domain.values, or leave it out; its rows are skipped",
    "NaN or infinite": "They are read as the mean; mend the export if that is not meant",
    "id out of range": "They read the unseen row; raise the table's rows",
    "null id": "Such a row goes by its place in its file; fill the id if files are written anew",
    "not ripe": "They are masked until they are ripe; collect labels later, or give as_of",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check saw."""

    findings: tuple[Finding, ...]
    files: int
    rows: int
    sampled_rows: int
    split_rows: dict[str, int]


def check_log(
    catalog: Catalog,
    data_root: str,
    *,
    sample_rows: int,
    as_of: date | None = None,
    today: date | None = None,
    all_ids: bool = False,
) -> Report:
    """Judge every footer, and about `sample_rows` rows spread over the files.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI under which `log.path` lies.
        sample_rows: rows to look at.
        as_of: last date whose labels were collected.
        today: the date that no row can lie beyond, None where no clock bounds the log.
        all_ids: look for repeated row ids among all rows, not the newest million.
    """
    uri = f"{data_root.rstrip('/')}/{catalog.log.path}"
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
        version=logs.table_version(uri, catalog.log.version),
    )
    findings = [*_file_findings(snapshot, catalog), *_folder_findings(snapshot)]
    if any(f.level == "refuse" for f in findings):
        return Report(findings=tuple(findings), files=0, rows=0, sampled_rows=0, split_rows={})
    dates, days_by_file, collected = LogDates(), NO_DAYS, None
    try:
        dates, days_by_file = read_dates(uri, catalog, today)
        refuse_time_unit(snapshot, catalog)
        collected = dates.collected_by(as_of or catalog.as_of)
    except PipelineError as error:
        findings.append(_refused(str(error), snapshot.uri, snapshot.rows))
    findings += date_findings(dates, catalog, snapshot.uri, as_of)
    sample = _Sample(snapshot, catalog, wanted=sample_rows, as_of=collected)
    findings += sample.findings()
    findings += find_repeated_ids(sample.selection, catalog, all_ids=all_ids)
    split_rows, problems = _split_rows(snapshot, catalog, dates, days_by_file)
    return Report(
        findings=(*findings, *problems),
        files=len(snapshot.files) + len(snapshot.unreadable),
        rows=snapshot.rows,
        sampled_rows=sample.rows,
        split_rows=split_rows,
    )


def _file_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """What footers and folder names tell."""
    for broken in snapshot.unreadable:
        level: Level = "quarantine" if snapshot.files else "refuse"
        yield Finding(
            level=level,
            what=broken.reason,
            file=broken.path,
            column="-",
            count=1,
            remedy="Write the file again, or change the catalogue; the file is skipped",
        )
    if not snapshot.files and not snapshot.unreadable:
        yield Finding(
            level="refuse",
            what="no Parquet file at all",
            file=snapshot.uri,
            column="-",
            count=0,
            remedy="Check data_root, log.path and log.partition_keys",
        )
    for file in snapshot.files:
        key = catalog.log.date_key
        day = splits.partition_of(file, key) if key else None
        if key and key not in file.inside and splits.parse_date(day) is None:
            yield Finding(
                level="quarantine",
                what=f"partition {key}={day} is no date",
                file=file.path,
                column=key,
                count=file.rows,
                remedy="Name the folder YYYY-MM-DD; no dated split selects it",
            )
        if not file.rows:
            yield Finding(
                level="warn",
                what="no rows",
                file=file.path,
                column="-",
                count=0,
                remedy="Nothing to read; was the export empty?",
            )


def _folder_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Find files and folders that are no part of the log, and folders that may be the null's."""
    for problem in logs.file_problems(snapshot):
        if problem.is_ignored:
            yield Finding(
                level="warn",
                what=problem.message,
                file=", ".join(problem.examples),
                column="-",
                count=problem.files,
                remedy="It is not read; move it away, or name its folder as the others",
            )
    for key, rows in logs.null_words(snapshot).items():
        yield Finding(
            level="warn",
            what=f"folder {key}=null is read as the word null",
            file="-",
            column=key,
            count=rows,
            remedy="If it is the null value, name it __HIVE_DEFAULT_PARTITION__",
        )


def _refused(what: str, file: str, rows: int) -> Finding:
    """What would stop training, said before it starts."""
    return Finding(
        level="refuse",
        what=what,
        file=file,
        column="-",
        count=rows,
        remedy="Training would stop here",
    )


class _Sample:
    """A look at rows of every file, as training would see them."""

    def __init__(
        self, snapshot: Snapshot, catalog: Catalog, *, wanted: int, as_of: date | None
    ) -> None:
        everything = Split(name="sample", first=None, last=None, where={}, slice=(0.0, 1.0))
        self.catalog, self.as_of = catalog, as_of
        self.selection: Selection = reader.select(snapshot, everything, catalog)
        self.wanted = max(wanted // max(len(self.selection.groups), 1), 1)
        self.rows = 0

    def findings(self) -> list[Finding]:
        """What the rows show, by kind, each with the first file it was seen in."""
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str], str] = {}
        classes: dict[tuple[str, str], Counter[float]] = defaultdict(Counter)
        found: list[Finding] = []
        for file, group, rows in self.selection.groups:
            piece = Piece(file=file, group=group, start=0, stop=min(rows, self.wanted))
            path = self.selection.snapshot.files[file].path
            try:
                read = reader.read_piece(self.selection, piece, self.catalog)
                seen = self._seen(read.rows) + Counter(read.counts)
            except PipelineError as error:
                found.append(_refused(str(error), path, rows))
                continue
            raw = read.rows
            self.rows += len(raw)
            for told, count in seen.items():
                level, _, what = told.partition(": ")
                counts[level, what] += count
                first.setdefault((level, what), path)
            self._classes(raw, classes)
        found += [self._finding(key, count, first[key]) for key, count in counts.items()]
        return found + list(self._one_class(classes))

    def _seen(self, rows: pa.RecordBatch) -> Counter[str]:
        seen = Counter(contract.inspect(rows, self.catalog).counts)
        seen += contract.out_of_range(rows, self.catalog)
        young = reader.unripe(rows, self.catalog, self.as_of)
        return +(seen + reader.unripe_counts(young, self.catalog, self.as_of))

    def _finding(self, key: tuple[str, str], count: int, path: str) -> Finding:
        level, what = key
        remedy = next((r for part, r in _REMEDIES.items() if part in what), "")
        column = what.rpartition(" in ")[2] if " in " in what else "-"
        kind: Level = "quarantine" if level == "quarantine" else "warn"
        return Finding(level=kind, what=what, file=path, column=column, count=count, remedy=remedy)

    def _classes(
        self, rows: pa.RecordBatch, classes: dict[tuple[str, str], Counter[float]]
    ) -> None:
        """How often each domain showed each label value."""
        names = features.domain_names(rows, self.catalog.domain.keys)
        codes = names.indices.fill_null(-1).to_numpy()
        for task in self.catalog.tasks:
            column = rows.column(task.label).cast(pa.float64(), safe=False)
            values = column.to_numpy(zero_copy_only=False)
            for code, name in enumerate(names.dictionary.to_pylist()):
                seen = values[codes == code]
                for value in (0.0, 1.0):
                    classes[str(name), task.label][value] += int((seen == value).sum())

    def _one_class(self, classes: dict[tuple[str, str], Counter[float]]) -> Iterator[Finding]:
        for (domain, label), counts in sorted(classes.items()):
            values = [value for value, count in counts.items() if count]
            if len(values) < 2:
                told = f"only {values[0]:g}" if values else "no label at all"
                yield Finding(
                    level="warn",
                    what=f"domain {domain} shows {told} in {label}",
                    file="-",
                    column=label,
                    count=counts.total(),
                    remedy="It cannot be ranked there: its AUC will be null, with this reason",
                )


def _split_rows(
    snapshot: Snapshot, catalog: Catalog, dates: LogDates, days_by_file: DaysByFile
) -> tuple[dict[str, int], list[Finding]]:
    """Rows of every split, what each loses or lacks, and domains that nothing tunes."""
    rows: dict[str, int] = {}
    problems: list[Finding] = []
    selections: dict[str, Selection] = {}
    for name, spec in catalog.splits.items():
        try:
            split = splits.resolve(name, spec, dates=dates.counted)
            selections[name] = reader.select(snapshot, split, catalog)
            rows[name] = selections[name].rows
            told = f"it selects no row; {told_window(split, dates)}"
        except PipelineError as error:
            rows[name], told = 0, str(error)
        if not rows[name]:
            problems.append(
                Finding(
                    level="warn",
                    what=f"split '{name}': {told}",
                    file="-",
                    column="-",
                    count=0,
                    remedy="A job that needs this split will refuse; check [splits]",
                )
            )
    problems += find_in_windows(snapshot, selections, catalog, days_by_file)
    return rows, problems
