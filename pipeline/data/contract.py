"""Check the contract between a log and its catalogue, and say what happens to data that break it.

Files are checked by their footers, rows by their values. A breach is refused, quarantined or warned
of. A quarantined row is still read and counted as a row, and loses all its labels: nothing is
learned from it and no metric ranks it. A row with an impossible value in one label loses that label
alone.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import given, normal
from iak.pipeline.data.breaches import Breach, Kind, Level, SchemaProblem
from iak.pipeline.data.features import LARGEST
from iak.pipeline.data.lists import is_padding
from iak.pipeline.data.normal import ColumnKind
from iak.pipeline.data.task_labels import label_kind, label_of
from iak.pipeline.data.written import written_columns
from iak.schemas.feature import FIRST_ROW, ListSpec, NumericSpec, table_of
from iak.schemas.log import UNIX, Catalog
from iak.schemas.task import TaskSpec

Mask = npt.NDArray[np.bool_]
NAMED_LABELS = 5
"""Most impossible label values that a batch names; the others are counted together."""


_ADVICE: Mapping[ColumnKind, str] = {
    "id": "An id is a whole number or text; write ids that are doubles as int64 (pandas: Int64).",
    "list of ids": "A list of ids holds whole numbers or text, one list a row; for ids in one text "
    "give the feature a separator.",
    "whole number": "An identity table reads whole numbers; for text leave its encoding out.",
    "list of whole numbers": "An identity table reads whole numbers; for text leave its encoding "
    "out.",
    "list of numbers": "Activations are one list of numbers a row, always of the same length.",
    "number": "A number is an integer, a float, a decimal or a boolean; read text as categorical. "
    "For numbers in text, give the feature in_text = true.",
    "label": "A label is 0, 1 or null, as a number or a boolean. For a column of words or events, "
    "give the task positive; for numbers in text, at_least; where null says no, has_value.",
    "grade": "at_least reads numbers, also as text.",
    "event": "positive reads text, whole numbers and booleans.",
    "time": "A time is Unix time as a number, an Arrow timestamp or a date; for text give "
    "event_time_format.",
    "written time": "event_time_format reads text and whole numbers.",
}
"""Kind of column that the catalogue expects -> an explanation of it."""


_Family = Literal["whole", "fraction", "text", "time"]
_READ_AS: Mapping[str, frozenset[_Family]] = {
    normal.ID: frozenset({"whole", "text"}),
    normal.WHOLE: frozenset({"whole"}),
    normal.NUMBER: frozenset({"whole", "fraction"}),
    normal.LABEL: frozenset({"whole", "fraction"}),
    normal.GRADE: frozenset({"whole", "fraction", "text"}),
    normal.EVENT: frozenset({"whole", "fraction", "text"}),
    normal.TIME: frozenset({"whole", "fraction", "time"}),
    normal.WRITTEN_TIME: frozenset({"time"}),
}
"""Kind of column that the catalogue expects -> the families of types that it is read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of problem of a log, however often it occurs."""

    level: Level
    what: str
    column: str
    count: int
    """Number of units in which it occurs."""
    remedy: str
    unit: Literal["rows", "values", "files", "domains"] = "rows"
    share: float = 0.0
    """Share of the sampled rows that show it; where files are lost, share of the log's rows."""
    examples: tuple[str, ...] = ()
    """Up to three files or domains that show it."""

    @property
    def file(self) -> str:
        """Return the first example, or a dash."""
        return self.examples[0] if self.examples else "-"


def schema_problem(schema: pa.Schema, catalog: Catalog) -> SchemaProblem | None:
    """Return the reason why the catalogue cannot read this schema; None where it can."""
    inside = [c for c in catalog.columns if c not in catalog.log.partition_keys]
    missing = missing_columns(schema.names, catalog)
    problems = [f"missing columns: {', '.join(missing)}"] if missing else []
    expected: list[ColumnKind] = []
    wanted, uses = expected_kinds(catalog), list(_uses(catalog))
    written = written_columns(catalog)
    for column in inside:
        if (count := schema.names.count(column)) > 1:
            problems.append(f"{column}: {count} columns have this name")
        elif count:
            actual = schema.field(column).type
            plain = normal.plain_type(actual, wanted[column], written.get(column))
            kinds = [kind for name, kind in uses if name == column] or [wanted[column]]
            if wrong := [kind for kind in dict.fromkeys(kinds) if not _is_kind(plain, kind)]:
                problems.append(f"{column}: {actual}, expected {' and '.join(wrong)}")
                expected += wrong
    if catalog.columns_base is not None and (
        problem := given.length_problem(schema, catalog.columns_base)
    ):
        problems.append(problem)
    if not problems:
        return None
    lacked = tuple(missing) if len(problems) == 1 else ()
    return SchemaProblem("; ".join(problems), tuple(expected), lacked)


def missing_columns(names: Collection[str], catalog: Catalog) -> list[str]:
    """Return the columns that a file with these names must have and does not.

    Args:
        names: columns of the file.
        catalog: the log's catalogue.
    """
    inside = [c for c in catalog.columns if c not in catalog.log.partition_keys]
    return [c for c in inside if c not in names and c not in catalog.optional_columns]


def type_advice(expected: Collection[ColumnKind]) -> str:
    """Explain the kinds of column that a schema problem says were expected; empty without any."""
    return " ".join(dict.fromkeys(text for kind, text in _ADVICE.items() if kind in expected))


def partition_problems(
    partitions: Iterable[Mapping[str, str | None]], catalog: Catalog
) -> dict[str, str]:
    """Return the partition keys that are read as numbers, with a value that is not a number.

    Args:
        partitions: partition values of each file.
        catalog: the log's catalogue.
    """
    whole = {column for column, kind in _identity_columns(catalog) if kind == normal.WHOLE}
    numbers = {f.columns[0] for f in catalog.features if isinstance(f, NumericSpec)}
    problems: dict[str, str] = {}
    for partition in partitions:
        for key in (whole | numbers) & partition.keys():
            text = partition[key]
            if text is not None and not _parses(text, pa.int64() if key in whole else pa.float64()):
                problems.setdefault(key, text)
    return problems


def _parses(text: str, kind: pa.DataType) -> bool:
    try:
        pa.scalar(text).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def rows_as_declared(
    rows: pa.RecordBatch, columns: Sequence[str], catalog: Catalog | None
) -> pa.RecordBatch:
    """Return columns of a file's rows in plain types, of the kinds that a catalogue declares.

    Args:
        rows: rows in the file's own types.
        columns: wanted names; one that the file lacks is null.
        catalog: decides the kind of each column; None only gives types one spelling.

    Raises:
        ArrowInvalid: a column of text holds bytes that are not UTF-8.
    """
    if catalog is None:
        return normal.plain_rows(rows, columns, {})
    return normal.plain_rows(rows, columns, expected_kinds(catalog), written_columns(catalog))


def expected_kinds(catalog: Catalog) -> dict[str, ColumnKind]:
    """Return the kind that the catalogue expects of each column.

    A column that is read in several ways has the strictest of their kinds.
    """
    kinds: dict[str, ColumnKind] = dict.fromkeys(catalog.columns, normal.ID)
    return kinds | dict(_uses(catalog))


def _uses(catalog: Catalog) -> Iterable[tuple[str, ColumnKind]]:
    """Yield each column with each kind that it is read as, the strictest last."""
    log = catalog.log
    for feature in catalog.features:
        if isinstance(feature, NumericSpec):
            yield feature.columns[0], "number"
        if isinstance(feature, ListSpec):
            yield feature.columns[0], "list of ids"
    if catalog.columns_base is not None:
        yield from ((column, "number") for column in catalog.columns_base.logits.values())
        if catalog.columns_base.h is not None:
            yield catalog.columns_base.h, "list of numbers"
    # A label of 0 and 1 is the strictest of the ways in which tasks may read one column.
    kinds = [(task.label, label_kind(task)) for task in catalog.tasks]
    yield from sorted(kinds, key=lambda use: (use[1] != normal.ANY, use[1] == normal.LABEL))
    if log.event_time in catalog.columns:
        is_number = log.event_time_format in (None, UNIX)
        yield str(log.event_time), normal.TIME if is_number else normal.WRITTEN_TIME
    for feature in catalog.features:
        if feature.kind in ("cross", "categorical"):
            yield from ((column, "id") for column in feature.columns)
    yield from ((c, "id") for c in (log.user, log.row_id, log.slice_by) if c)
    yield from _identity_columns(catalog)


def _identity_columns(catalog: Catalog) -> Iterable[tuple[str, ColumnKind]]:
    """Yield the columns that an identity table reads: their ids must be whole numbers."""
    tables = catalog.table_specs
    for feature in catalog.keyed:
        table = tables[table_of(feature) or feature.name]
        if table.encoding == "identity" and not isinstance(feature, NumericSpec):
            is_list = isinstance(feature, ListSpec)
            yield feature.columns[0], "list of whole numbers" if is_list else "whole number"


def _is_kind(actual: pa.DataType, kind: str) -> bool:
    """Return whether a column of this plain type may be read as this kind."""
    if kind == normal.ANY:
        return True
    if pa.types.is_dictionary(actual):
        actual = actual.value_type
    if kind.startswith(normal.LIST_OF):
        is_list = pa.types.is_list(actual) or pa.types.is_large_list(actual)
        return bool(is_list) and _is_kind(actual.value_type, kind.removeprefix(normal.LIST_OF)[:-1])
    return _family(actual) in _READ_AS[kind]


def _family(actual: pa.DataType) -> _Family | None:
    """Return the family of a plain type; None where no kind is read from it."""
    is_ = pa.types
    if is_.is_integer(actual) or is_.is_boolean(actual):
        return "whole"
    if is_.is_floating(actual) or is_.is_decimal(actual):
        return "fraction"
    if is_.is_string(actual) or is_.is_large_string(actual):
        return "text"
    return "time" if is_.is_timestamp(actual) or is_.is_date(actual) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Rows of one batch that must lose labels, and counts of the problems."""

    quarantined: Mask | None
    """Rows that lose every label."""
    counts: Mapping[Breach, int]
    """Breach -> rows, or values of numbers, that show it."""
    masked: Mapping[str, Mask] = field(default_factory=dict)
    """Task -> rows that lose its label alone, where there are any."""
    breaches: Mapping[str, Mask] = field(default_factory=dict)
    """What breaks the contract -> the rows that do, where there are any."""

    def masks_with(self, unripe: Mapping[str, Mask]) -> dict[str, Mask]:
        """Return the rows that lose each task's label: impossible ones, and those not ripe.

        Args:
            unripe: task -> rows whose label is not ripe.
        """
        joined = dict(unripe)
        for task, mask in self.masked.items():
            joined[task] = joined[task] | mask if task in joined else mask
        return joined


def inspect(rows: pa.RecordBatch, catalog: Catalog) -> Inspection:
    """Check rows against the contract. Pure, and the same in `iak check` and in training.

    Args:
        rows: raw rows with all columns of the catalogue.
        catalog: the log's catalogue.
    """
    counts: Counter[Breach] = Counter()
    breaches: dict[str, Mask] = {}
    masked: dict[str, Mask] = {}

    def quarantine(bad: Mask, breach: Breach) -> None:
        if bad.any():
            counts[breach] += int(bad.sum())
            breaches[breach.what] = bad

    def quarantine_nulls(column: str, kind: Kind) -> None:
        if rows.column(column).null_count:
            quarantine(_numpy(rows.column(column).is_null()), Breach.of(kind, column))

    for key in (*catalog.domain.keys, *catalog.domain.parent):
        quarantine_nulls(key, Kind.NULL_DOMAIN_KEY)
    if user := catalog.log.user:
        quarantine_nulls(user, Kind.NULL_USER)
    labels = {task.title: _label(rows, task) for task in catalog.tasks}
    for task in catalog.tasks:
        values = labels[task.title]
        bad = _not_binary(values)
        if bad.any():
            masked[task.title] = bad
            counts.update(_odd_labels(values[bad], task.label))
    for bad, breach in given.unusable_rows(rows, catalog):
        quarantine(bad, breach)
    for bad, breach in _conversions_without_click(labels, catalog):
        quarantine(bad, breach)
    if catalog.domain.values:
        undeclared = Breach(Kind.UNDECLARED_DOMAIN, Kind.UNDECLARED_DOMAIN)
        quarantine(_undeclared(rows, catalog), undeclared)
    for column in dict.fromkeys((catalog.log.row_id, catalog.log.slice_by)):
        if column and (nulls := rows.column(column).null_count):
            counts[Breach.of(Kind.NULL_ID, column)] += nulls
    for breach, bad_values in _odd_numbers(rows, catalog):
        counts[breach] += bad_values
    return Inspection(
        quarantined=np.logical_or.reduce(list(breaches.values())) if breaches else None,
        counts=counts,
        masked=masked,
        breaches=breaches,
    )


def _numpy(mask: pa.Array) -> Mask:
    values: Mask = mask.to_numpy(zero_copy_only=False)
    return values


def _label(rows: pa.RecordBatch, task: TaskSpec) -> npt.NDArray[Any]:
    """Return labels as a NumPy array: integers as they are, else floats with NaN for null."""
    column = label_of(rows, task)
    is_whole = pa.types.is_integer(column.type) and not column.null_count
    floats = column if is_whole else column.cast(pa.float64(), safe=False)
    return cast("npt.NDArray[Any]", floats.to_numpy(zero_copy_only=False))


def _not_binary(values: npt.NDArray[Any]) -> Mask:
    bad: Mask = (values != 0) & (values != 1)
    return bad & ~np.isnan(values) if values.dtype.kind == "f" else bad


def _odd_labels(values: npt.NDArray[Any], column: str) -> Counter[Breach]:
    """Count the label values that are not 0 or 1, the most frequent ones by name."""
    distinct, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    by_value: Counter[Breach] = Counter()
    for rank, index in enumerate(order):
        shown = _shown(float(distinct[index])) if rank < NAMED_LABELS else "others"
        what = f"{Kind.ODD_LABEL}: {shown} in {column}"
        by_value[Breach(Kind.ODD_LABEL, what, column, shown)] += int(counts[index])
    return by_value


def _shown(value: float) -> str:
    """Return a label value as text; a long one is rounded, so that few different texts arise."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 100 else f"{value:.2g}"


def _conversions_without_click(
    labels: Mapping[str, npt.NDArray[Any]], catalog: Catalog
) -> Iterable[tuple[Mask, Breach]]:
    """Yield, for each conversion, the rows that have it without the click, and the breach."""
    clicks = [t for t in catalog.tasks if t.kind == "click"]
    for task in catalog.tasks:
        if task.kind == "conversion" and clicks:
            clicked, converted = labels[clicks[0].title], labels[task.title]
            what = f"{task.label_text} without {clicks[0].label_text}"
            yield (converted == 1) & (clicked == 0), Breach(Kind.NO_CLICK, what)


def _undeclared(rows: pa.RecordBatch, catalog: Catalog) -> Mask:
    """Return the rows whose domain the catalogue does not list."""
    known = np.zeros(len(rows), np.bool_)
    columns = [rows.column(k).cast(pa.string()) for k in catalog.domain.keys]
    for values in catalog.domain.values:
        pairs = zip(columns, values, strict=True)
        same = [_numpy(pc.fill_null(pc.equal(c, v), False)) for c, v in pairs]
        known |= np.logical_and.reduce(same)
    return ~known


def out_of_range(rows: pa.RecordBatch, catalog: Catalog) -> Counter[Breach]:
    """Count the ids that an identity table has no row for; they read the unseen row."""
    counts: Counter[Breach] = Counter()
    tables = catalog.table_specs
    for feature in catalog.keyed:
        table = tables[table_of(feature) or feature.name]
        if table.encoding == "identity" and table.rows and not isinstance(feature, NumericSpec):
            column = rows.column(feature.columns[0])
            values = column.flatten() if isinstance(feature, ListSpec) else column
            numbers = values.cast(pa.int64(), safe=False)
            bad = pc.or_(pc.less(numbers, 0), pc.greater_equal(numbers, table.rows - FIRST_ROW))
            if isinstance(feature, ListSpec) and feature.padding is not None:
                bad = pc.and_(bad, pa.array(~is_padding(values, feature.padding)))
            breach = Breach.of(Kind.OUT_OF_RANGE, feature.columns[0])
            counts[breach] += pc.sum(bad).as_py() or 0
    return +counts


def _odd_numbers(rows: pa.RecordBatch, catalog: Catalog) -> Iterable[tuple[Breach, int]]:
    """Yield, for each column of numbers, the number of values read as missing, and why."""
    for feature in catalog.features:
        column = rows.column(feature.columns[0])
        if not (isinstance(feature, NumericSpec) and pa.types.is_floating(column.type)):
            continue
        sizes = np.abs(column.to_numpy(zero_copy_only=False))
        if (sizes < LARGEST).all():  # usual: no null, no NaN, nothing beyond float32
            continue
        beyond = int((np.isfinite(sizes) & (sizes >= LARGEST)).sum())
        odd = len(sizes) - int((sizes < LARGEST).sum()) - column.null_count - beyond
        unread = Kind.NOT_A_NUMBER if feature.in_text else Kind.NOT_FINITE
        for kind, count in ((unread, odd), (Kind.BEYOND_FLOAT32, beyond)):
            if count:
                yield Breach.of(kind, feature.columns[0]), count
