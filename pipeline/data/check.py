"""Footers and a sample -> findings: one a kind, with count, share, examples and remedy."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa

from iak.pipeline.data import (
    contract,
    features,
    hashing,
    kinds,
    leaks,
    logs,
    names,
    nearest,
    parquet,
    ripeness,
    splits,
    stores,
    unseen,
    vocabulary,
)
from iak.pipeline.data.contract import Finding, Level
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.file_problems import by_reason, file_problems, null_words
from iak.pipeline.data.fingerprints import files_without_checksums
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.pieces import Piece, spread_pieces
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.data.view import (
    NO_DAYS,
    DaysByFile,
    date_findings,
    read_dates,
    refuse_time_unit,
    told_conditions,
    told_windows,
)
from iak.pipeline.data.window_findings import find_in_windows, find_repeated_ids
from iak.pipeline.errors import PipelineError
from iak.schemas.feature import ListSpec, NumericSpec
from iak.schemas.log import Catalog

EXAMPLES = 3
_LEAK_GROUPS, _LEAK_ROWS = 8, 10_000
"""Row groups that are looked at for leaks, and rows of each."""
_REMEDIES = {
    "differs from the folder's": "The file's counts; Iceberg writes a space as +, null as null",
    "null domain key": "Fill the key, or drop the rows; they are skipped",
    "null user": "Fill the user, or take log.user out of the catalogue; they are skipped",
    "label outside": "A label is 0, 1 or null; mend the export. The rows lose this label alone",
    "without": "A conversion needs its click; mend the join. They are skipped",
    "undeclared domain": "Add it to domain.values, or leave it out; its rows are skipped",
    "NaN or infinite": "They are read as the mean; mend the export if that is not meant",
    "beyond float32": "They are read as the mean, as a missing number is; mend the export",
    "id out of range": "They read the unseen row; raise the table's rows",
    "null id": "Such a row goes by its place in its file; fill the id if files are written anew",
    "not ripe": "They are masked until they are ripe; collect labels later, or give as_of",
    "wild number": "They are cut at the feature's clip and left out of its mean and deviation",
    "missing columns": "Write the files again, or say optional = true where only features read "
    "the column: then it is null there. The files are skipped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check saw."""

    findings: tuple[Finding, ...]
    files: int
    rows: int
    sampled_rows: int
    split_rows: dict[str, int]
    unseen: dict[str, dict[str, float]] = field(default_factory=dict)
    """Split -> table -> share of its ids that the sample of the pretrain split does not have."""
    counted_rows: int = 0
    """Rows of the pretrain split whose ids were counted for that; fewer than the split has make
    ids look unseen that are not."""
    without_checksums: tuple[str, ...] = ()
    """Paths of files whose pages carry no checksum: damage in them may be read as values."""


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

    Raises:
        BadRequest: the folder does not exist.
    """
    uri = stores.below(data_root, catalog.log.path)
    version = logs.table_version(uri, catalog.log.version)
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
        version=version,
    )
    findings = [*_name_findings(snapshot, catalog), *_file_findings(snapshot, catalog)]
    findings += _folder_findings(snapshot)
    odd_folders = list(_partition_findings(snapshot, catalog))
    if odd_folders or not snapshot.files:
        return _report(snapshot, [*findings, *odd_folders])
    findings += _kind_findings(snapshot, catalog)
    dates, days_by_file, refusal = _dates(snapshot, catalog, today)
    collected = None if refusal else dates.collected_by(as_of or catalog.as_of)
    findings += [refusal] if refusal else []
    findings += date_findings(dates, catalog, snapshot.uri, as_of)
    sample, whole = _Sample(catalog, as_of=collected), _everything(snapshot, catalog)
    sample.look(whole, wanted=sample_rows)
    findings += sample.findings()
    findings += find_repeated_ids(whole, catalog, all_ids=all_ids)
    findings += leak_findings(snapshot, catalog)
    chosen, problems = _selections(snapshot, catalog, dates, days_by_file)
    findings += [f for f in problems if not refusal or "counts days" not in f.what]
    split_sample = _SplitSample(catalog, chosen, sample_rows, sample.as_of)
    findings += split_sample.findings()
    rows = {str(name): chosen[name].rows if name in chosen else 0 for name in catalog.splits}
    return _report(
        snapshot,
        findings,
        sampled_rows=sample.rows,
        split_rows=rows,
        unseen=split_sample.shares,
        counted_rows=split_sample.counted_rows,
        without_checksums=tuple(file.path for file in files_without_checksums(snapshot)),
    )


def _dates(
    snapshot: Snapshot, catalog: Catalog, today: date | None
) -> tuple[LogDates, DaysByFile, Finding | None]:
    """Return the log's dates as far as they can be read, and what would stop a job there."""
    dates, days_by_file = LogDates(), NO_DAYS
    version = snapshot.table.version if snapshot.table else None
    try:
        dates, days_by_file = read_dates(snapshot.uri, catalog, today, version=version)
        refuse_time_unit(snapshot, catalog)
    except PipelineError as error:
        return dates, days_by_file, _refused(str(error), snapshot.uri, snapshot.rows)
    return dates, days_by_file, None


def _report(
    snapshot: Snapshot,
    findings: Iterable[Finding],
    *,
    sampled_rows: int = 0,
    split_rows: dict[str, int] | None = None,
    unseen: dict[str, dict[str, float]] | None = None,
    counted_rows: int = 0,
    without_checksums: tuple[str, ...] = (),
) -> Report:
    return Report(
        findings=tuple(findings),
        files=len(snapshot.files) + len(snapshot.unreadable),
        rows=snapshot.rows,
        sampled_rows=sampled_rows,
        split_rows=split_rows or {},
        unseen=unseen or {},
        counted_rows=counted_rows,
        without_checksums=without_checksums,
    )


def _name_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Find partition keys and columns that the catalogue names and the log does not have."""
    try:
        names.refuse_unknown_partition_keys(snapshot.uri, catalog)
    except PipelineError as error:
        yield _refused(str(error), snapshot.uri, snapshot.rows)
    there = names.columns_of(snapshot)
    if not there:
        return
    has = f"The files have: {nearest.listed(there)}"
    for setting, column, line in names.unknown_columns(catalog, there, uri=snapshot.uri):
        yield Finding(
            level="refuse",
            what=f"{setting} names the column '{column}', which no file has",
            column=column,
            count=1,
            unit="values",
            remedy=f"{line} {has}".strip(),
        )
    for column in sorted(catalog.optional_columns - there):
        yield Finding(
            level="warn",
            what=f"no file has the optional column {column}",
            column=column,
            count=len(snapshot.files),
            unit="files",
            remedy=f"It is null everywhere.{nearest.nearest(column, there)} {has}",
        )


def _partition_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Find folder names that features read as numbers and that are none."""
    partitions = (dict(file.partition) for file in snapshot.files)
    for key, text in contract.partition_problems(partitions, catalog).items():
        told = f"a folder says {key}={text}, and a feature reads {key} as a number"
        yield _refused(told, snapshot.uri, snapshot.rows)


def _kind_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Find ids of two kinds."""
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


def _file_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Find what footers and folder names tell."""
    lost = sum(u.rows or 0 for u in snapshot.unreadable)
    total = snapshot.rows + lost
    for files in by_reason(snapshot.unreadable):
        rows = sum(u.rows or 0 for u in files)
        reason = files[0].reason
        told = f"; {rows:,} rows lost" if rows else ""
        yield Finding(
            level="quarantine" if snapshot.files else "refuse",
            what=f"{reason} ({len(files):,} of {_count_files(snapshot):,} files{told})",
            column="-",
            count=len(files),
            unit="files",
            share=rows / total if total else 0.0,
            examples=tuple(u.path for u in files[:EXAMPLES]),
            remedy=_remedy(reason, "Write the file again, or change the catalogue; it is skipped"),
        )
    if not snapshot.files and not snapshot.unreadable:
        ignored = len(snapshot.ignored)
        told = f"none of {ignored:,} files and folders there is read" if ignored else "at all"
        yield _refused(
            f"no Parquet file {'of the log: ' if ignored else ''}{told}", snapshot.uri, 0
        )
    key = catalog.log.date_key
    undated = [
        f
        for f in snapshot.files
        if key and key not in f.inside and splits.parse_date(splits.partition_of(f, key)) is None
    ]
    days = dict.fromkeys(splits.partition_of(f, key or "") or "null" for f in undated)
    if undated:
        yield Finding(
            level="quarantine",
            what=f"partition {key}={next(iter(days))} is no date"
            + (f", and {len(days) - 1} more such values" if len(days) > 1 else ""),
            column=str(key),
            count=sum(f.rows for f in undated),
            share=sum(f.rows for f in undated) / max(total, 1),
            examples=tuple(f.path for f in undated[:EXAMPLES]),
            remedy="Name the folders YYYY-MM-DD; no dated split selects their rows",
        )
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


def _folder_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Find files and folders that are no part of the log, and folders that may be the null's."""
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


def _count_files(snapshot: Snapshot) -> int:
    return len(snapshot.files) + len(snapshot.unreadable)


def _remedy(what: str, otherwise: str = "") -> str:
    told = next((remedy for part, remedy in _REMEDIES.items() if part in what), otherwise)
    return f"{contract.type_advice(what)} {told}".strip()


def _refused(what: str, file: str, rows: int) -> Finding:
    """Return a finding of what would stop training, before it starts."""
    return Finding(
        level="refuse",
        what=what,
        column="-",
        count=rows,
        examples=(file,),
        remedy="Training would stop here. Check data_root, log.path and [log]",
    )


def _everything(snapshot: Snapshot, catalog: Catalog) -> Selection:
    whole = Split(name="sample", first=None, last=None, where={}, slice=(0.0, 1.0))
    return parquet.select(snapshot, whole, catalog)


class _Sample:
    """What rows of every file show, as training would see them."""

    def __init__(self, catalog: Catalog, *, as_of: date | None) -> None:
        self.catalog, self.as_of = catalog, as_of
        self.rows = self.quarantined = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        self.classes = _Classes(catalog)
        self.broken: list[tuple[str, str, int]] = []

    def look(self, selection: Selection, *, wanted: int) -> None:
        """Look at the first rows of every row group."""
        most = max(wanted // max(len(selection.groups), 1), 1)
        for file, group, rows in selection.groups:
            piece = Piece(file=file, group=group, start=0, stop=min(rows, most))
            path = selection.snapshot.files[file].path
            try:
                self._add(parquet.read_piece(selection, piece, self.catalog), path)
            except PipelineError as error:
                self.broken.append((str(error), path, rows))

    def _add(self, raw: parquet.RawRows, path: str) -> None:
        rows = raw.rows
        found = contract.inspect(rows, self.catalog)
        seen = (
            Counter(found.counts) + Counter(raw.counts) + contract.out_of_range(rows, self.catalog)
        )
        young = ripeness.unripe(rows, self.catalog, self.as_of)
        seen += ripeness.unripe_counts(young, self.catalog, self.as_of)
        for told, count in (+seen).items():
            level, _, what = told.partition(": ")
            self.counts[level, what] += count
            if len(self.examples[level, what]) < EXAMPLES:
                self.examples[level, what][path] = None
        self.rows += len(rows)
        if found.quarantined is not None:
            self.quarantined += int(found.quarantined.sum())
        self.classes.add(rows)

    def findings(self) -> Iterator[Finding]:
        """Return what was seen, one finding a kind and column."""
        if self.broken:
            what, path, _ = self.broken[0]
            more = f" ({len(self.broken):,} row groups are like it)" if self.broken[1:] else ""
            rows = sum(rows for _, _, rows in self.broken)
            yield _refused(f"{what}{more}", path, rows)
        if self.rows and self.quarantined == self.rows:
            yield _refused(f"all {self.rows:,} rows looked at are quarantined", "-", self.rows)
        odd = {key for key in self.counts if contract.ODD_LABEL in key[1]}
        for key, count in self.counts.items():
            if key not in odd:
                yield self._finding(*key, count=count, examples=self.examples[key])
        for column in dict.fromkeys(what.rpartition(" in ")[2] for _, what in odd):
            yield self._odd_labels([k for k in odd if k[1].endswith(f" in {column}")], column)
        yield from self.classes.findings()

    def _odd_labels(self, keys: Sequence[tuple[str, str]], column: str) -> Finding:
        """Join the impossible values of one label into one finding that names them."""
        values: Counter[str] = Counter()
        examples: dict[str, None] = {}
        for key in keys:
            values[key[1].partition(f"{contract.ODD_LABEL}: ")[2].rpartition(" in ")[0]] += (
                self.counts[key]
            )
            examples |= self.examples[key]
        count, named = values.total(), values.most_common(contract.NAMED_LABELS)
        shares = [f"{value} ({number / count:.0%})" for value, number in named]
        rest = count - sum(number for _, number in named)
        shares += [f"others ({rest / count:.0%})"] if rest else []
        what = f"{contract.ODD_LABEL} in {column}: {', '.join(shares)}"
        return self._finding("quarantine", what, count=count, examples=examples, column=column)

    def _finding(
        self,
        level: str,
        what: str,
        *,
        count: int,
        examples: Mapping[str, None],
        column: str | None = None,
    ) -> Finding:
        kind: Level = "quarantine" if level == "quarantine" else "warn"
        return Finding(
            level=kind,
            what=what,
            column=column or (what.rpartition(" in ")[2] if " in " in what else "-"),
            count=count,
            share=count / max(self.rows, 1),
            examples=tuple(examples)[:EXAMPLES],
            remedy=_remedy(what),
        )


class _Classes:
    """How often each domain showed each label value."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.counts: dict[str, Counter[tuple[str, float]]] = defaultdict(Counter)
        self.domains: dict[str, None] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        """Count raw rows."""
        domains = features.domain_names(rows, self.catalog.domain.keys)
        words = [str(word) for word in domains.dictionary.to_pylist()]
        self.domains |= dict.fromkeys(words)
        for task in self.catalog.tasks:
            labels = rows.column(task.label).cast(pa.float64(), safe=False)
            for value in (0.0, 1.0):
                chosen = domains.indices.filter(pa.compute.equal(labels, value)).drop_null()
                for code in pa.compute.value_counts(chosen).to_pylist():
                    self.counts[task.label][words[code["values"]], value] += code["counts"]

    def findings(self) -> Iterator[Finding]:
        """Find, by label, the domains that cannot be ranked."""
        for task in self.catalog.tasks:
            counts = self.counts[task.label]
            told: dict[str, int] = {}
            for domain in self.domains:
                no, yes = counts[domain, 0.0], counts[domain, 1.0]
                if not (no and yes):
                    shown = f"only {0 if no else 1} in {no + yes:,} labels" if no + yes else "none"
                    told[f"{domain} ({shown})"] = no + yes
            if told:
                worst = sorted(told, key=lambda name: -told[name])
                yield Finding(
                    level="warn",
                    what=f"{len(told):,} of {len(self.domains):,} domains show one class or no "
                    f"label in {task.label}",
                    column=task.label,
                    count=len(told),
                    unit="domains",
                    examples=tuple(worst[:EXAMPLES]),
                    remedy="They cannot be ranked there: their AUC will be null, with this reason",
                )


def leak_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Find columns, declared or not, that predict a label nearly alone."""
    labels = {t.label for t in catalog.tasks}
    read = {c for f in catalog.features for c in f.columns}
    batches = []
    every = _everything(snapshot, catalog)
    stride = -(-len(every.groups) // _LEAK_GROUPS) or 1
    for file, group, _ in every.groups[::stride]:
        held = snapshot.files[file]
        columns = tuple(
            name
            for name, kind in dict(held.columns).items()
            if name in labels or (leaks.is_judged(kind) and name not in catalog.log.partition_keys)
        )
        try:
            rows = parquet.read_columns(snapshot, held, group, columns, catalog)
        except PipelineError:
            continue  # the sample has told of it
        batches.append(rows.slice(0, _LEAK_ROWS))
    for found in leaks.suspects(batches, catalog):
        is_read = found.column in read
        yield Finding(
            level="warn",
            what=f"suspected leak: {found.column} alone predicts {found.task} with an AUC of "
            f"{found.auc:.3f}",
            column=found.column,
            count=found.rows,
            share=1.0 if is_read else 0.0,
            remedy="Find out when it is written. If that is after the event, remove the feature "
            "and list it in log.leak_columns"
            if is_read
            else "No feature reads it; list it in log.leak_columns, so that none ever does",
        )


def _selections(
    snapshot: Snapshot, catalog: Catalog, dates: LogDates, days_by_file: DaysByFile
) -> tuple[dict[str, Selection], list[Finding]]:
    """Return the splits that have rows; find what the others lack, and what all of them lose."""
    chosen: dict[str, Selection] = {}
    selections: dict[str, Selection] = {}
    problems: list[Finding] = []
    trained_on = ("pretrain", "pretrain_valid" if "pretrain_valid" in catalog.splits else "valid")
    for name, spec in catalog.splits.items():
        told = "it selects no row"
        try:
            split = splits.resolve(name, spec, dates=dates.counted)
            selection = selections[name] = parquet.select(snapshot, split, catalog)
            if selection.rows:
                chosen[name] = selection
                continue
            told += f"; {told_windows([split], dates)}{told_conditions([split], snapshot, catalog)}"
        except PipelineError as error:
            told = str(error).removeprefix(f"split '{name}': ").removeprefix(f"split '{name}' ")
        problems.append(
            Finding(
                level="refuse" if name in trained_on else "warn",
                what=f"split '{name}': {told}",
                column="-",
                count=0,
                remedy="A job that needs this split will refuse; check [splits]",
            )
        )
    problems += find_in_windows(snapshot, selections, catalog, days_by_file)
    return chosen, problems


class _SplitSample:
    """What a sample of each split shows against the one that a base would learn from."""

    def __init__(
        self,
        catalog: Catalog,
        chosen: Mapping[str, Selection],
        wanted: int,
        as_of: date | None,
    ) -> None:
        self.catalog, self.chosen, self.as_of = catalog, chosen, as_of
        self.wanted = wanted
        self.wanted_of_others = max(wanted // max(len(chosen), 1), 1)
        self.shares: dict[str, dict[str, float]] = {}
        self.counted_rows = 0

    def findings(self) -> Iterator[Finding]:
        """Return what the splits show; a log that cannot be read has been told of already."""
        try:
            for name in ("pretrain", "tune"):
                if name in self.chosen:
                    yield from self._labels(name)
            if "pretrain" in self.chosen:
                yield from self._wild_numbers()
                yield from self._padded_lists()
                yield from self._unseen()
        except PipelineError:
            return

    def _raw(self, split: str) -> Iterator[parquet.RawRows]:
        selection = self.chosen[split]
        for piece in spread_pieces(selection, rows=self.wanted):
            yield parquet.read_piece(selection, piece, self.catalog)

    def _labels(self, split: str) -> Iterator[Finding]:
        counts, rows = LabelCounts(self.catalog), 0
        for raw in self._raw(split):
            found = contract.inspect(raw.rows, self.catalog)
            unripe = ripeness.unripe(raw.rows, self.catalog, self.as_of)
            counts.add(raw.rows, found.quarantined, found.without(unripe))
            rows += len(raw.rows)
        is_sure = split == "pretrain" and rows == self.chosen[split].rows
        labels = {task.title: task.label for task in self.catalog.tasks if task.weight}
        for task, told in counts.problems().items():
            if task in labels:
                yield Finding(
                    level="refuse" if is_sure else "warn",
                    what=f"task {task} cannot be trained on split '{split}': {told}",
                    column=labels[task],
                    count=rows,
                    share=1.0,
                    remedy="Check the label column, matures_after with as_of, and the split; or "
                    "take the task out of [[tasks]]",
                )

    def _wild_numbers(self) -> Iterator[Finding]:
        moments = {
            f.name: (f, vocabulary.Moments())
            for f in self.catalog.features
            if isinstance(f, NumericSpec)
        }
        for raw in self._raw("pretrain"):
            for feature, gathered in moments.values():
                gathered.add(features.raw_number(feature, raw.rows))
        for feature, gathered in moments.values():
            if wild := gathered.wild():
                yield Finding(
                    level="warn",
                    what=f"wild number in {feature.columns[0]}: {wild:,} of {gathered.count:,} lie "
                    "far beyond all others",
                    column=feature.columns[0],
                    count=wild,
                    unit="values",
                    remedy=_remedy("wild number"),
                )

    def _padded_lists(self) -> Iterator[Finding]:
        """Find lists that are filled up to one length, where no padding is declared."""
        lists = [f for f in self.catalog.features if isinstance(f, ListSpec) and f.padding is None]
        ends = {f.columns[0]: features.ListEnds() for f in lists}
        for raw in self._raw("pretrain"):
            for column, gathered in ends.items():
                gathered.add(raw.rows.column(column))
        for column, gathered in ends.items():
            if padding := gathered.padding():
                value, lists_count = padding
                word = json.dumps(value, ensure_ascii=False)
                yield Finding(
                    level="warn",
                    what=f"all lists of {column} are {gathered.length} long, and "
                    f"{lists_count / gathered.lists:.0%} end or begin with {word} twice",
                    column=column,
                    count=lists_count,
                    remedy=f"If {word} only fills them up, declare padding = {word} for the "
                    "feature; else it is read as an id like the others",
                )

    def _unseen(self) -> Iterator[Finding]:
        encoding = vocabulary.fit(self._counted_rows(), self.catalog)
        counted = {
            name: self._counted(name, encoding) for name in self.chosen if name != "pretrain"
        }
        self.shares = {name: found.shares() for name, found in counted.items()}
        usual = self.shares.get("pretrain_valid", self.shares.get("valid", {}))
        jumped: dict[str, list[str]] = defaultdict(list)
        for name, shares in self.shares.items():
            for table, (share, before) in unseen.jumps(shares, usual).items():
                jumped[table].append(f"{name} {share:.1%} (else {before:.1%})")
        for table, told in jumped.items():
            yield Finding(
                level="warn",
                what=f"unseen ids jump in table {table}",
                column=table,
                count=sum(found.unseen.get(table, 0) for found in counted.values()),
                unit="values",
                examples=tuple(told[:EXAMPLES]),
                remedy="Did its ids change their spelling, or is it a table of new ids by nature?",
            )

    def _counted_rows(self) -> Iterator[tuple[pa.RecordBatch, hashing.Keys]]:
        for raw in self._raw("pretrain"):
            self.counted_rows += len(raw.rows)
            yield raw.rows, raw.identity

    def _counted(self, split: str, encoding: Encoding) -> unseen.UnseenIds:
        rows = self.wanted_of_others
        return unseen.count_unseen(self.chosen[split], self.catalog, encoding, rows=rows)
