"""Find problems that sampled rows of a log show, for `iak check`: breaches, classes, leaks."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import pyarrow as pa

from iak.pipeline.data import (
    contract,
    leaks,
    parquet,
    ripeness,
)
from iak.pipeline.data.breaches import REMEDIES, Breach, Kind
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.domain_columns import domain_names
from iak.pipeline.data.label_days import DayLabels
from iak.pipeline.data.label_values import LabelValues
from iak.pipeline.data.notice import EXAMPLES, refusal
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.sampled_negatives import SampledNegatives
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.task_labels import label_of
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog

_LEAK_GROUPS, _LEAK_ROWS = 8, 10_000
"""Most row groups that are read for leaks, and most rows of each."""


class Sample:
    """Sampled rows of each file, and the problems in them, read as training would read them."""

    def __init__(self, catalog: Catalog, *, as_of: date | None) -> None:
        """Start with no rows.

        Args:
            catalog: the log's catalogue.
            as_of: last date whose labels were collected; None takes every label as ripe.
        """
        self.catalog, self.as_of = catalog, as_of
        self.rows = self.quarantined = 0
        self.counts: Counter[Breach] = Counter()
        self.examples: dict[Breach, dict[str, None]] = defaultdict(dict)
        self.classes = _Classes(catalog)
        self.negatives = SampledNegatives(catalog)
        self.label_values = LabelValues(catalog)
        self.days = DayLabels(catalog)
        self.broken: list[tuple[str, str, int]] = []

    def read(self, selection: Selection, *, rows: int) -> None:
        """Read the first rows of each row group.

        Args:
            selection: the rows to sample from.
            rows: approximate number of rows to read in all.
        """
        most = max(rows // max(len(selection.groups), 1), 1)
        for file, group, count in selection.groups:
            piece = Piece(file=file, group=group, start=0, stop=min(count, most))
            path = selection.snapshot.files[file].path
            try:
                self._add(parquet.read_piece(selection, piece, self.catalog), path)
            except PipelineError as error:
                self.broken.append((str(error), path, count))

    def _add(self, raw: parquet.RawRows, path: str) -> None:
        rows = raw.rows
        inspection = contract.inspect(rows, self.catalog)
        counts = Counter(inspection.counts) + Counter(raw.counts)
        counts += contract.out_of_range(rows, self.catalog)
        unripe_rows = ripeness.unripe(rows, self.catalog, self.as_of)
        counts += ripeness.unripe_counts(unripe_rows, self.catalog, self.as_of)
        for breach, count in (+counts).items():
            self.counts[breach] += count
            if len(self.examples[breach]) < EXAMPLES:
                self.examples[breach][path] = None
        self.rows += len(rows)
        if inspection.quarantined is not None:
            self.quarantined += int(inspection.quarantined.sum())
        self.classes.add(rows)
        self.negatives.add(rows, raw.identity)
        self.label_values.add(rows)
        self.days.add(rows, inspection.masks_with(unripe_rows))

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each kind of problem and column."""
        if self.broken:
            what, path, _ = self.broken[0]
            more = f" ({len(self.broken):,} row groups are like it)" if self.broken[1:] else ""
            rows = sum(rows for _, _, rows in self.broken)
            yield refusal(f"{what}{more}", path, rows)
        if self.rows and self.quarantined == self.rows:
            yield refusal(f"all {self.rows:,} rows looked at are quarantined", "-", self.rows)
        odd = [breach for breach in self.counts if breach.kind is Kind.ODD_LABEL]
        for breach, count in self.counts.items():
            if breach.kind is not Kind.ODD_LABEL:
                yield self._finding(breach, count=count, examples=self.examples[breach])
        for column in dict.fromkeys(breach.column for breach in odd):
            yield self._odd_labels([b for b in odd if b.column == column], column)
        yield from self.classes.findings()
        yield from self.negatives.findings()
        yield from self.label_values.findings()
        yield from self.days.findings()

    def _odd_labels(self, breaches: Sequence[Breach], column: str) -> Finding:
        """Join the impossible values of one label into one finding that names them."""
        values: Counter[str] = Counter()
        examples: dict[str, None] = {}
        for breach in breaches:
            values[breach.value] += self.counts[breach]
            examples |= self.examples[breach]
        count, named = values.total(), values.most_common(contract.NAMED_LABELS)
        shares = [f"{value} ({number / count:.0%})" for value, number in named]
        rest = count - sum(number for _, number in named)
        shares += [f"others ({rest / count:.0%})"] if rest else []
        what = f"{Kind.ODD_LABEL} in {column}: {', '.join(shares)}"
        every = Breach(Kind.ODD_LABEL, what, column)
        return self._finding(every, count=count, examples=examples)

    def _finding(self, breach: Breach, *, count: int, examples: Mapping[str, None]) -> Finding:
        return Finding(
            level=breach.level,
            what=breach.what,
            column=breach.column,
            count=count,
            share=count / max(self.rows, 1),
            examples=tuple(examples)[:EXAMPLES],
            remedy=REMEDIES.get(breach.kind, ""),
        )


class _Classes:
    """Counts of each label value in each domain."""

    def __init__(self, catalog: Catalog) -> None:
        """Start with no rows."""
        self.catalog = catalog
        self.counts: dict[str, Counter[tuple[str, float]]] = defaultdict(Counter)
        self.domains: dict[str, None] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        """Count raw rows."""
        domains = domain_names(rows, self.catalog.domain.keys)
        words = [str(word) for word in domains.dictionary.to_pylist()]
        self.domains |= dict.fromkeys(words)
        for task in self.catalog.tasks:
            labels = label_of(rows, task).cast(pa.float64(), safe=False)
            for value in (0.0, 1.0):
                chosen = domains.indices.filter(pa.compute.equal(labels, value)).drop_null()
                for code in pa.compute.value_counts(chosen).to_pylist():
                    self.counts[task.title][words[code["values"]], value] += code["counts"]

    def findings(self) -> Iterator[Finding]:
        """Yield, for each label, the domains that cannot be ranked."""
        for task in self.catalog.tasks:
            counts = self.counts[task.title]
            problems: dict[str, int] = {}
            for domain in self.domains:
                no, yes = counts[domain, 0.0], counts[domain, 1.0]
                if not (no and yes):
                    shown = f"only {0 if no else 1} in {no + yes:,} labels" if no + yes else "none"
                    problems[f"{domain} ({shown})"] = no + yes
            if problems:
                worst = sorted(problems, key=lambda name: -problems[name])
                yield Finding(
                    level="warn",
                    what=f"{len(problems):,} of {len(self.domains):,} domains show one class or no "
                    f"label in {task.label_text}",
                    column=task.label,
                    count=len(problems),
                    unit="domains",
                    examples=tuple(worst[:EXAMPLES]),
                    remedy="They cannot be ranked there: their AUC will be null, with this reason",
                )


def leak_findings(snapshot: Snapshot, catalog: Catalog) -> Iterator[Finding]:
    """Yield columns, declared or not, that predict a label nearly alone."""
    labels = {t.label for t in catalog.tasks}
    read = {c for f in catalog.features for c in f.columns}
    batches = []
    every = parquet.select_all(snapshot, catalog)
    stride = -(-len(every.groups) // _LEAK_GROUPS) or 1
    for file, group, _ in every.groups[::stride]:
        log_file = snapshot.files[file]
        columns = tuple(
            name
            for name, kind in dict(log_file.columns).items()
            if name in labels or (leaks.is_judged(kind) and name not in catalog.log.partition_keys)
        )
        try:
            rows = parquet.read_columns(snapshot, log_file, group, columns, catalog)
        except PipelineError:
            continue  # a finding of the sample names the file
        batches.append(rows.slice(0, _LEAK_ROWS))
    for suspect in leaks.suspects(batches, catalog):
        is_read = suspect.column in read
        yield Finding(
            level="warn",
            what=f"suspected leak: {suspect.column} alone predicts {suspect.task} with an AUC of "
            f"{suspect.auc:.3f}",
            column=suspect.column,
            count=suspect.rows,
            share=1.0 if is_read else 0.0,
            remedy="Find out when it is written. If that is after the event, remove the feature "
            "and list it in log.leak_columns"
            if is_read
            else "No feature reads it; list it in log.leak_columns, so that none ever does",
        )
