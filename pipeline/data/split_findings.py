"""Find problems of the splits of a log, for `iak check`: rows, labels, numbers, lists, new ids."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date

from iak.pipeline.data import (
    contract,
    features,
    parquet,
    ripeness,
    splits,
    unseen,
    vocabulary_size,
)
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.encoding_counts import EncodingCounts
from iak.pipeline.data.event_dates import (
    DaysByFile,
)
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.lists import ListEnds
from iak.pipeline.data.moments import Moments
from iak.pipeline.data.notice import EXAMPLES
from iak.pipeline.data.pieces import spread_pieces
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.split_messages import conditions_message, windows_message
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.window_findings import find_in_windows
from iak.pipeline.errors import PipelineError
from iak.schemas.feature import ListSpec, NumericSpec, table_of
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog


def select_splits(
    snapshot: Snapshot,
    catalog: Catalog,
    dates: LogDates,
    days_by_file: DaysByFile,
    *,
    undated: bool = True,
) -> tuple[dict[str, Selection], list[Finding]]:
    """Return the splits that have rows, and findings on empty splits and lost rows.

    Args:
        snapshot: the whole log.
        catalog: its catalogue.
        dates: its dates.
        days_by_file: rows by date of each file whose folder does not name its day.
        undated: whether a split that counts days of a log without dates is a finding.
            False where another finding names the cause.

    Returns:
        Name of a split -> its rows, for splits with any; and the findings.
    """
    chosen: dict[str, Selection] = {}
    selections: dict[str, Selection] = {}
    problems: list[Finding] = []
    trained_on = ("pretrain", "pretrain_valid" if "pretrain_valid" in catalog.splits else "valid")
    for name, spec in catalog.splits.items():
        if spec.days and not dates.counted and not undated:
            continue
        problem = "it selects no row"
        try:
            split = splits.resolve(name, spec, dates=dates.counted)
            selection = selections[name] = parquet.select(snapshot, split, catalog)
            if selection.rows:
                chosen[name] = selection
                continue
            problem += f"; {windows_message([split], dates)}"
            problem += conditions_message([split], snapshot, catalog)
        except PipelineError as error:
            problem = str(error).removeprefix(f"split '{name}': ").removeprefix(f"split '{name}' ")
        problems.append(
            Finding(
                level="refuse" if name in trained_on else "warn",
                what=f"split '{name}': {problem}",
                column="-",
                count=0,
                remedy="A job that needs this split will refuse; check [splits]",
            )
        )
    problems += find_in_windows(snapshot, selections, catalog, days_by_file)
    return chosen, problems


class SplitSample:
    """A sample of each split, and the problems that it shows."""

    def __init__(
        self,
        catalog: Catalog,
        chosen: Mapping[str, Selection],
        wanted: int,
        as_of: date | None,
    ) -> None:
        """Read nothing yet.

        Args:
            catalog: the log's catalogue.
            chosen: name of a split -> its rows; splits without rows are left out.
            wanted: rows to read of pretrain and of tune; the other splits share as many.
            as_of: last date whose labels were collected.
        """
        self.catalog, self.chosen, self.as_of = catalog, chosen, as_of
        self.wanted = wanted
        self.wanted_of_others = max(wanted // max(len(chosen), 1), 1)
        self.shares: dict[str, dict[str, float]] = {}
        self.counted_rows = 0

    def findings(self) -> Iterator[Finding]:
        """Yield the findings. At a row group that cannot be read they end, without an error.

        The findings of `Sample` name that row group.
        """
        try:
            for name in ("pretrain", "tune"):
                if name in self.chosen:
                    yield from self._labels(name)
            for name in ("pretrain_valid", "valid"):
                if name in self.chosen and self.chosen[name].rows <= self.wanted:
                    yield from self._labels_of_validation(name)
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

    def _label_counts(self, split: str) -> tuple[LabelCounts, int]:
        """Return the labels of the rows that are read of a split, and the number of rows."""
        counts, rows = LabelCounts(self.catalog), 0
        for raw in self._raw(split):
            inspection = contract.inspect(raw.rows, self.catalog)
            unripe = ripeness.unripe(raw.rows, self.catalog, self.as_of)
            counts.add(raw.rows, inspection.quarantined, inspection.masks_with(unripe))
            rows += len(raw.rows)
        return counts, rows

    def _labels_of_validation(self, split: str) -> Iterator[Finding]:
        """Yield tasks that all rows of a split cannot validate, since they have one class."""
        counts, rows = self._label_counts(split)
        labels = {task.title: task.label for task in self.catalog.tasks if task.weight}
        for task, problem in counts.problems().items():
            if task in labels and rows == self.chosen[split].rows:
                yield Finding(
                    level="warn",
                    what=f"task {task} cannot be validated on split '{split}': {problem}",
                    column=labels[task],
                    count=rows,
                    share=1.0,
                    remedy="It is trained, and nothing there shows how well: its AUC is null, and "
                    "early stop sees one class. Give the split more rows",
                )

    def _labels(self, split: str) -> Iterator[Finding]:
        counts, rows = self._label_counts(split)
        is_sure = split == "pretrain" and rows == self.chosen[split].rows
        labels = {task.title: task.label for task in self.catalog.tasks if task.weight}
        for task, problem in counts.problems().items():
            if task in labels:
                yield Finding(
                    level="refuse" if is_sure else "warn",
                    what=f"task {task} cannot be trained on split '{split}': {problem}",
                    column=labels[task],
                    count=rows,
                    share=1.0,
                    remedy="Check the label column with its positive or at_least, matures_after "
                    "with as_of, and the split; or take the task out of [[tasks]]",
                )

    def _wild_numbers(self) -> Iterator[Finding]:
        moments = {
            f.name: (f, Moments()) for f in self.catalog.features if isinstance(f, NumericSpec)
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
                    remedy="They are cut at the feature's clip and left out of its mean and "
                    "deviation",
                )

    def _padded_lists(self) -> Iterator[Finding]:
        """Yield lists that are filled up to one length, where no padding is declared."""
        lists = [f for f in self.catalog.features if isinstance(f, ListSpec) and f.padding is None]
        ends = {f.columns[0]: ListEnds() for f in lists}
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
        counts = EncodingCounts(self.catalog)
        for raw in self._raw("pretrain"):
            self.counted_rows += len(raw.rows)
            counts.add(raw.rows)
        yield from self._large_vocabularies(counts)
        encoding = counts.encoding()
        counted = {
            name: self._counted(name, encoding) for name in self.chosen if name != "pretrain"
        }
        self.shares = {name: ids.shares() for name, ids in counted.items()}
        usual = self.shares.get("pretrain_valid", self.shares.get("valid", {}))
        jumped: dict[str, list[str]] = defaultdict(list)
        for name, shares in self.shares.items():
            for table, (share, before) in unseen.jumps(shares, usual).items():
                jumped[table].append(f"{name} {share:.1%} (else {before:.1%})")
        for table, examples in jumped.items():
            yield Finding(
                level="warn",
                what=f"unseen ids jump in table {table}",
                column=table,
                count=sum(ids.unseen.get(table, 0) for ids in counted.values()),
                unit="values",
                examples=tuple(examples[:EXAMPLES]),
                remedy="Did its ids change their spelling, or is it a table of new ids by nature?"
                + self._cut_by_users(table),
            )

    def _cut_by_users(self, table: str) -> str:
        """Return what to write where a table of users jumps because splits have other users."""
        user, slice_by = self.catalog.log.user, self.catalog.log.slice_by
        readers = [f for f in self.catalog.features if table_of(f) == table]
        if not user or not any(user in feature.columns for feature in readers):
            return ""
        slices = "" if user == slice_by else f", and give slice_by = {json.dumps(user)}"
        return (
            " Where each split has users of its own, rates of one user serve no other: take "
            f"{user} out of the keys of [[fresh]]{slices}"
        )

    def _large_vocabularies(self, counts: EncodingCounts) -> Iterator[Finding]:
        """Yield tables with so many ids that hashing them is to be weighed."""
        share = self.counted_rows / self.chosen["pretrain"].rows
        for name, occurrences in counts.tables.items():
            table = self.catalog.table_specs[name]
            ids = vocabulary_size.estimate_ids(occurrences, share, table.min_count)
            if table.rows is None and ids >= vocabulary_size.LARGE:
                width = table.width or ModelSpec().width
                yield Finding(
                    level="warn",
                    what=f"large vocabulary {name}: {vocabulary_size.size_message(ids, width)}",
                    column=name,
                    count=ids,
                    unit="values",
                    remedy=vocabulary_size.hashing_advice(name, ids),
                )

    def _counted(self, split: str, encoding: Encoding) -> unseen.UnseenIds:
        rows = self.wanted_of_others
        return unseen.count_unseen(self.chosen[split], self.catalog, encoding, rows=rows)
