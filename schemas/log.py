"""Define the catalogue: one TOML file that declares a log, and all that onboarding a log needs."""

import re
from datetime import date
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from iak.schemas.base import Column, FolderText, Spec, Value, without_repeats
from iak.schemas.feature import (
    CategoricalSpec,
    FeatureSpec,
    ListSpec,
    Name,
    NumericSpec,
    TableSpec,
    table_of,
)
from iak.schemas.fresh import (
    CoOccurrenceSpec,
    CountsSpec,
    FreshSpec,
    Keys,
    Use,
    counted_keys,
    fresh_names,
    rate_names,
    rates_of,
)
from iak.schemas.given_base import GivenBaseSpec, ModuleBaseSpec
from iak.schemas.numbers import Number, Share, Whole
from iak.schemas.task import DomainSpec, TaskSpec

TimeUnit = Literal["d", "s", "ms", "us", "ns"]
FolderNames = Literal["key=value", "value"]
"""How the folders of a log are named."""
ISO = "iso"
"""Format of a time that is written by ISO 8601."""
UNIX = "unix"
"""Format of a Unix time whose digits are text."""
_TIME_CODES = frozenset("YymdHMSbBaIpz%")
"""Codes of strptime that Arrow and Python read alike."""
Day = Annotated[Whole, Field(ge=-100_000, le=100_000)]
"""A day of the log: 0 is the first one, -1 the last one."""
SplitName = Literal["pretrain", "pretrain_valid", "pretrain_test", "tune", "valid", "gate", "test"]

SCORED = "score"
"""Name of the split of the rows that are scored; no catalogue declares it."""

_USUAL_TABLE = TableSpec()
"""A table of which the catalogue states nothing."""
_MAY_LEAK = ("log.user", "log.row_id", "log.partition_keys")
"""Settings that may name a leak column: they only identify a row, a user or a folder."""


class SplitSpec(Spec):
    """Which rows belong to a split; every condition given must hold."""

    dates: tuple[date, date] | None = None
    """First and last date, both included."""
    days: tuple[Day, Day] | None = None
    """The same in days of the log: 0 is its first date, -1 its last."""
    where: dict[Column, Annotated[tuple[Value, ...], Field(min_length=1)]] = {}
    """Column -> admitted values, as text."""
    slice: tuple[Annotated[Number, Field(ge=0, le=1)], Annotated[Number, Field(ge=0, le=1)]] = (
        0,
        1,
    )
    """Rows whose hash (of `slice_by`) falls into [low, high) of the unit interval."""

    @property
    def conditions(self) -> str:
        """Return the conditions as text, for messages."""
        given = {
            "dates": self.dates and [str(day) for day in self.dates],
            "days": self.days and list(self.days),
            "where": {column: list(values) for column, values in self.where.items()},
            "slice": list(self.slice) if self.slice != (0, 1) else None,
        }
        return ", ".join(f"{k} {v}" for k, v in given.items() if v) or "no condition"

    @model_validator(mode="after")
    def _is_a_window(self) -> Self:
        if self.slice[0] >= self.slice[1]:
            raise ValueError(f"slice {self.slice} is empty; expected low < high")
        if self.dates and self.days:
            raise ValueError("give dates or days, not both")
        if self.dates and self.dates[0] > self.dates[1]:
            raise ValueError(f"dates {self.dates[0]} to {self.dates[1]} run backwards")
        if self.days and (self.days[0] < 0) == (self.days[1] < 0) and self.days[0] > self.days[1]:
            raise ValueError(
                f"days {list(self.days)} run backwards; expected the earlier one first"
            )
        return self


def time_format(value: str | None) -> str | None:
    """Return a format of times that names a day, unchanged.

    Raises:
        ValueError: it has an unknown code, or names no day.
    """
    if value in (None, ISO, UNIX):
        return value
    codes = re.findall(r"%(.?)", value)
    if unknown := sorted({f"%{code}" for code in codes} - {f"%{code}" for code in _TIME_CODES}):
        raise ValueError(
            f"{value!r} has {', '.join(unknown)}; expected 'iso', or 'unix', or %Y %y %m %b %B %d "
            "%a %H %I %p %M %S %z and %%"
        )
    if not ({*codes} & {*"Yy"} and {*codes} & {*"mbB"} and "d" in codes):
        raise ValueError(f"{value!r} names no day; expected a year, a month and a day, as %Y%m%d")
    return value


class LogSpec(Spec):
    """Where the rows of a log are, and what identifies them."""

    name: Name
    path: FolderText = "events"
    """Folder of the log, relative to the job's `data_root`."""
    version: Annotated[Whole, Field(ge=0, le=2**63 - 1)] | None = None
    """Version of a Delta table, or snapshot id of an Iceberg table; the newest when absent."""
    truth: FolderText | None = None
    """Folder with true probabilities beside a planted log; read by evaluation alone."""
    partition_keys: tuple[Column, ...] = ()
    """Hive partition keys, outermost first; their values are text. The key `year/month/day` spans
    three folders, and its value is their date. The key `year/month` spans two, and its value is
    their month, `2026-02`. Of a Delta or Iceberg table these are partition columns."""
    folder_names: Annotated[FolderNames, Field(exclude_if=lambda value: value == "key=value")] = (
        "key=value"
    )
    """How folders are named: `region=cn`, or `cn`, the value alone. In a log of values alone the
    innermost key is also the name of a file that lies where its folder would: the value of
    `train.parquet`, and of `train-00000-of-00004.parquet`, is `train`."""
    date_key: Column | None = None
    """The partition key that holds a date: YYYY-MM-DD, another ISO spelling, or a midnight, also
    after a name (`events_20261005`). An hour (`2026020307`) belongs to its day. A month (`2026-02`,
    `202602`) or a week (`2026-W08`) stands for its last day, so it counts when it is over. Windows
    count days then too: `days = [-45, -1]` has the last two months. Where an `event_time` tells the
    day, leave `date_key` out and name the key of the months in `time_keys`."""
    date_unit: Annotated[Literal["d"] | None, Field(exclude_if=lambda value: value is None)] = None
    """`d` where `date_key` holds numbers of days instead of dates, since 1970-01-01 or since the
    log's own start, which then stands there: `3` and `day_3` are 1970-01-04."""
    time_keys: Annotated[tuple[Column, ...], Field(exclude_if=lambda value: not value)] = ()
    """Partition keys besides `date_key` that tell when rows were, such as `hour`. A night takes
    folders that differ in these alone for one partition."""
    event_time: Column | None = None
    """Column with the time of the event: Unix time as a number, or an Arrow timestamp. A timestamp
    with a zone is an instant; one without is wall clock in `time_zone`."""
    event_time_unit: TimeUnit = "s"
    """Unit of an `event_time` that is a number; an Arrow timestamp carries its own. `d` is a number
    of days, of which all rows of a day have the same."""
    event_time_format: Annotated[
        str | None, AfterValidator(time_format), Field(exclude_if=lambda value: value is None)
    ] = None
    """How an `event_time` is written that is text or digits: `iso` (2026-10-05 09:30:00, also with
    a T, fractions, a zone or UTC), `unix` (1759656600, in `event_time_unit`), or codes of strptime
    (`%Y%m%d`). A value that is written otherwise is no time."""
    time_zone: str = "UTC"
    """Zone in which dates are cut from `event_time`, and of timestamps without a zone."""
    row_id: Column | None = None
    """Column that identifies a row; the row's position in its file when absent, or where it is
    null."""
    max_repeated_ids: Share = 0.01
    """Share of rows that may repeat the `row_id` of another row before the log is refused."""
    slice_by: Column | None = None
    """Column whose hash cuts split slices (a request, a user); the row's identity when absent. A
    row where it is null is cut by its position in its file."""
    user: Column | None = None
    """Column with the user: for GAUC, and for intervals, which count the rows of one user as
    dependent."""
    leak_columns: tuple[Column, ...] = ()
    """Columns from which the label can be read; a feature must not read them."""
    negatives_kept: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of negatives that down-sampling kept; calibration corrects for it."""

    @field_validator("partition_keys", "time_keys", "leak_columns")
    @classmethod
    def _columns_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return without_repeats(value)

    @model_validator(mode="after")
    def _time_is_written_in_one_way(self) -> Self:
        if self.event_time_format not in (None, UNIX) and self.event_time_unit != "s":
            raise ValueError("give event_time_unit or event_time_format, not both")
        if self.event_time_format and not self.event_time:
            raise ValueError("event_time_format says how event_time is written; name its column")
        if self.event_time_unit == "d" and self.time_zone != "UTC":
            raise ValueError(
                f'event_time_unit = "d" counts days, which are the same in each zone; leave '
                f"time_zone = {self.time_zone!r} out"
            )
        return self

    @model_validator(mode="after")
    def _named_folders_have_keys(self) -> Self:
        if self.folder_names == "value" and not self.partition_keys:
            raise ValueError(
                'folder_names = "value" says that folders are values of partition keys; name these '
                "in partition_keys, outermost first"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_known(self) -> Self:
        if self.date_key and self.date_key not in self.partition_keys:
            raise ValueError(
                f"date_key '{self.date_key}' is not among partition_keys {self.partition_keys}; "
                "add it there, or cut dates from event_time"
            )
        if self.date_unit and not self.date_key:
            raise ValueError("date_unit says what date_key counts; name its partition key")
        for key in self.time_keys:
            if key not in self.partition_keys or key == self.date_key:
                raise ValueError(
                    f"time_keys names '{key}', expected names of partition_keys "
                    f"{self.partition_keys} besides date_key"
                )
        for field, column in (("row_id", self.row_id), ("slice_by", self.slice_by)):
            if column in self.partition_keys:
                raise ValueError(
                    f"{field} '{column}' is a partition key, the same for all rows of a folder; "
                    "name a column inside the files"
                )
        return self

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("no such time zone; expected a name such as Asia/Shanghai") from error
        return value


class Catalog(Spec):
    """A declared log: rows, features, tables, tasks, domains and splits."""

    log: LogSpec
    domain: DomainSpec
    features: tuple[FeatureSpec, ...] = ()
    tables: dict[Name, TableSpec] = {}
    """Tables that need more than the defaults; others are made from the features that name them."""
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    base: Annotated[
        GivenBaseSpec | ModuleBaseSpec | None,
        Field(discriminator="kind", exclude_if=lambda base: base is None),
    ] = None
    """A recommender that was made elsewhere: its columns in the log, or a torch module. Absent: one
    is pre-trained."""
    splits: dict[SplitName, SplitSpec]
    fresh: tuple[FreshSpec, ...] = ()
    """Counts of earlier rows that the kernels' encoders read; the base is not trained again."""
    as_of: date | None = None
    """Last date whose labels were collected; the newest date of the log when absent."""
    presets: dict[str, dict[str, str | int | float | bool | tuple[int, ...]]] = {}
    """Settings that suit this log, by verb (`[presets.pretrain]`): dotted names of fields of the
    verb's spec. A config file and the command line override them."""

    @field_validator("fresh", mode="before")
    @classmethod
    def _counts_are_usual(cls, fresh: object) -> object:
        """Read a table of `[[fresh]]` without a kind as counts."""
        if not isinstance(fresh, list | tuple):
            return fresh
        return [{"kind": "counts", **f} if isinstance(f, dict) else f for f in fresh]

    @model_serializer(mode="wrap")
    def _without_fresh(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `fresh` where nothing is declared.

        Runs, bases and caches of catalogues without statistics keep the digests that they had.
        """
        document: dict[str, Any] = handler(self)
        if not self.fresh:
            document.pop("fresh", None)
        return document

    @field_validator("tasks")
    @classmethod
    def _one_click_at_most(cls, tasks: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        """Refuse two clicks; without any, read a conversion as a plain label over all rows.

        Such a task keeps its name (`cvr`) and has no second metric over all impressions, so that
        every reader of the catalogue treats it alike.
        """
        clicks = [t.title for t in tasks if t.kind == "click"]
        if len(clicks) > 1:
            raise ValueError(f"one task may be the click; found {clicks}")
        if clicks:
            return tasks
        return tuple(
            t.model_copy(update={"kind": "binary", "name": t.title})
            if t.kind == "conversion"
            else t
            for t in tasks
        )

    @field_validator("base")
    @classmethod
    def _each_task_has_a_logit(
        cls, base: GivenBaseSpec | ModuleBaseSpec | None, info: ValidationInfo
    ) -> GivenBaseSpec | ModuleBaseSpec | None:
        """Bring the logits into the order of the tasks, which is that of every tensor."""
        if not isinstance(base, GivenBaseSpec) or "tasks" not in info.data:
            return base  # where there are no tasks, they are refused by themselves
        titles, given = [t.title for t in info.data["tasks"]], list(base.logits)
        if sorted(titles) != sorted(given):
            raise ValueError(
                f"logits names a column for {given}, the tasks are {titles}; name one column for "
                "each task, such as logits.ctr = 'logit_ctr'"
            )
        return base.model_copy(update={"logits": {t: base.logits[t] for t in titles}})

    @property
    def columns_base(self) -> GivenBaseSpec | None:
        """Return the base that is known by columns; None where the base is run here."""
        return self.base if isinstance(self.base, GivenBaseSpec) else None

    @property
    def table_specs(self) -> dict[str, TableSpec]:
        """Return each table by name, in the order in which features first read it."""
        names = dict.fromkeys(t for t in map(table_of, self.features) if t)
        return {name: self.tables.get(name, _USUAL_TABLE) for name in names}

    @property
    def numeric(self) -> tuple[NumericSpec, ...]:
        """Return the dense inputs, in order."""
        return tuple(f for f in self.features if isinstance(f, NumericSpec) and not f.is_bucketed)

    @property
    def keyed(self) -> tuple[FeatureSpec, ...]:
        """Return the features that read a table, in order."""
        return tuple(f for f in self.features if table_of(f))

    @property
    def histories(self) -> tuple[tuple[ListSpec, CategoricalSpec], ...]:
        """Return each history and its target, in order.

        A history is a list whose table a categorical feature reads too. The first such feature is
        its target.
        """
        targets: dict[str | None, CategoricalSpec] = {}
        for feature in self.features:
            if isinstance(feature, CategoricalSpec):
                targets.setdefault(table_of(feature), feature)
        return tuple(
            (feature, targets[table_of(feature)])
            for feature in self.features
            if isinstance(feature, ListSpec) and table_of(feature) in targets
        )

    def to_score(self, rows: SplitSpec) -> Self:
        """Return the same log without labels, and with the one split `score`.

        Args:
            rows: the rows that are scored.
        """
        # The base's statistics name the rates that they read, since no task will say them. Those of
        # kernels stay: the definition that bundles are bound to has them as they were written.
        fresh = tuple(
            spec.model_copy(update={"tasks": rates_of(spec, self.tasks)})
            if isinstance(spec, CountsSpec) and spec.use == "base"
            else spec
            for spec in self.fresh
        )
        return self.model_copy(update={"tasks": (), "splits": {SCORED: rows}, "fresh": fresh})

    @property
    def columns(self) -> tuple[str, ...]:
        """Return each column of the log, partition keys included, that a job reads."""
        log = self.log
        wanted = [c for f in self.features for c in f.columns]
        wanted += self.columns_base.columns if self.columns_base else ()
        wanted += [t.label for t in self.tasks]
        wanted += [*self.domain.keys, *self.domain.parent]
        wanted += [c for c in (log.user, log.row_id, log.slice_by) if c]
        wanted += [c for s in self.splits.values() for c in s.where]
        if log.event_time and self.needs_event_time:
            wanted.append(log.event_time)
        return tuple(dict.fromkeys(wanted))

    @property
    def feature_columns(self) -> frozenset[str]:
        """Return the columns that features read and nothing else does."""
        log = self.log
        others = {t.label for t in self.tasks} | {*self.domain.keys, *self.domain.parent}
        others |= set(self.columns_base.columns) if self.columns_base else set()
        others |= {c for c in (log.user, log.row_id, log.slice_by, log.event_time) if c}
        others |= {c for s in self.splits.values() for c in s.where} | {*log.partition_keys}
        return frozenset(c for f in self.features for c in f.columns) - others

    @property
    def optional_columns(self) -> frozenset[str]:
        """Return the columns that a file may lack: only optional features read them."""
        required = {c for f in self.features if not f.optional for c in f.columns}
        return self.feature_columns - required

    @property
    def fresh_keys(self) -> tuple[Keys, ...]:
        """Return every key that is counted, parents first; the first one has all rows."""
        return counted_keys(self.fresh, self.domain.keys) if self.fresh else ()

    @property
    def fresh_names(self) -> tuple[str, ...]:
        """Return the name of each fresh statistic that a kernel's encoder reads, in order."""
        return fresh_names(self.fresh_of("kernel"), self.tasks, self.domain.keys)

    @property
    def number_names(self) -> tuple[str, ...]:
        """Return the name of each number that a base reads: numeric features, then statistics."""
        statistics = fresh_names(self.fresh_of("base"), self.tasks, self.domain.keys)
        return (*(f.name for f in self.numeric), *statistics)

    def fresh_of(self, use: Use) -> tuple[FreshSpec, ...]:
        """Return the statistics that kernels read, or those that the base reads."""
        return tuple(spec for spec in self.fresh if spec.use == use)

    def counting(self, use: Use) -> Self:
        """Return the catalogue with the statistics of one use alone."""
        return self.model_copy(update={"fresh": self.fresh_of(use)})

    @property
    def needs_event_time(self) -> bool:
        """Return whether a split, a maturing label or a statistic must read the event's time."""
        dated = any(s.dates or s.days for s in self.splits.values()) or bool(self.fresh)
        return (dated and not self.log.date_key) or any(t.matures_after for t in self.tasks)

    @model_validator(mode="after")
    def _columns_are_written_in_one_way(self) -> Self:
        """Refuse a text that two features read in two ways: as ids and a list, or a number."""
        ways: dict[str, tuple[str, tuple[str | None, bool, bool]]] = {}
        for feature in self.features:
            way: tuple[str | None, bool, bool] = (None, False, False)
            if feature.kind == "list":
                way = (feature.separator, feature.whole, False)
            elif feature.kind == "numeric":
                way = (None, False, feature.in_text)
            for column in feature.columns:
                name, other = ways.setdefault(column, (feature.name, way))
                if other != way:
                    raise ValueError(
                        f"features '{name}' and '{feature.name}' read '{column}' in two ways; "
                        "give both the same kind, separator, whole and in_text"
                    )
        return self

    @model_validator(mode="after")
    def _something_is_read(self) -> Self:
        """Refuse a base without inputs; one that is given needs none beside its logits."""
        if self.base is None and not self.features:
            raise ValueError(
                "features: expected at least 1; a base that is pre-trained here reads them"
            )
        return self

    @model_validator(mode="after")
    def _given_base_fits(self) -> Self:
        """Refuse a given base without a task's logit, and features that nobody has embedded."""
        if self.columns_base is None:
            return self
        if keyed := [f.name for f in self.keyed]:
            raise ValueError(
                f"features {keyed} read tables, and a base of kind 'columns' has none. Take them "
                "out, or log their embeddings as a part of base.h; numbers without buckets are read"
            )
        labels, leaks = {t.label for t in self.tasks}, set(self.log.leak_columns)
        if wrong := sorted(set(self.columns_base.columns) & (labels | leaks)):
            raise ValueError(
                f"base names {wrong}, which are labels or leak columns; a kernel must not see them"
            )
        return self

    @model_validator(mode="after")
    def _module_numbers_its_rows(self) -> Self:
        """Refuse tables whose rows are numbered here, where a module has numbered its own."""
        if not isinstance(self.base, ModuleBaseSpec):
            return self
        if counted := [n for n, t in self.table_specs.items() if t.encoding != "identity"]:
            raise ValueError(
                f"tables {counted} are numbered by this log's ids, and {self.base.factory} was "
                "trained on numbers of its own. Log its row numbers, and give the tables "
                "encoding = 'identity' and rows"
            )
        return self

    @model_validator(mode="after")
    def _features_are_honest(self) -> Self:
        labels = {t.label for t in self.tasks}
        for feature in self.features:
            for column in feature.columns:
                if column in self.log.leak_columns or column in labels:
                    what = "a label" if column in labels else "declared a leak column"
                    raise ValueError(
                        f"feature '{feature.name}' reads '{column}', which is {what}; "
                        "a model must not see it. Remove the feature"
                    )
        return self

    @property
    def _columns_by_setting(self) -> dict[str, tuple[str, ...]]:
        """Return, by setting, the columns that identify a row or decide where it belongs."""
        log = self.log
        settings: dict[str, tuple[str | None, ...]] = {
            "domain.keys": self.domain.keys,
            "domain.parent": self.domain.parent,
            "log.user": (log.user,),
            "log.row_id": (log.row_id,),
            "log.slice_by": (log.slice_by,),
            "log.event_time": (log.event_time,),
            "log.date_key": (log.date_key,),
            "log.partition_keys": log.partition_keys,
            **{f"splits.{name}.where": tuple(split.where) for name, split in self.splits.items()},
        }
        return {name: tuple(c for c in columns if c) for name, columns in settings.items()}

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> Self:
        """Refuse a label, a list or a leak column in a role that it cannot have.

        A label has no other role. A leak column may identify a row, a user or a folder: those
        decide neither what a model reads nor which rows it learns from and is evaluated on.
        """
        labels = {t.label for t in self.tasks}
        lists = {f.columns[0] for f in self.features if f.kind == "list"}
        leaks = set(self.log.leak_columns)
        for setting, columns in self._columns_by_setting.items():
            for column in columns:
                if column in labels:
                    raise ValueError(
                        f"{setting} names '{column}', which is a label; it is not known when a "
                        "row is served. Name another column"
                    )
                if column in lists and not setting.endswith(".where"):
                    raise ValueError(
                        f"{setting} names '{column}', which feature lists read; a list has no one "
                        "value. Name another column"
                    )
                if column in leaks and setting not in _MAY_LEAK:
                    raise ValueError(
                        f"{setting} names '{column}', which is declared a leak column; what a row "
                        "belongs to must be known before its label. Take it out of "
                        f"log.leak_columns, or out of {setting}"
                    )
        if both := sorted(labels & leaks):
            raise ValueError(f"log.leak_columns names {both}, which are labels; leave them out")
        if self.log.event_time in self.log.partition_keys:
            raise ValueError(
                f"log.event_time '{self.log.event_time}' is a partition key, whose values are "
                "text; name it as log.date_key, or name a column inside the files"
            )
        return self

    @model_validator(mode="after")
    def _domains_are_no_rows(self) -> Self:
        """Refuse a domain of a single row, and a parent that is as fine as its domains."""
        singles = {"log.row_id": self.log.row_id, "log.event_time": self.log.event_time}
        for setting in ("domain.keys", "domain.parent"):
            for single, column in singles.items():
                if column and column in self._columns_by_setting[setting]:
                    raise ValueError(
                        f"{setting} names '{column}', which is {single} too: a domain would be a "
                        "single row. Name a column that many rows share"
                    )
        if self.domain.parent and set(self.domain.keys) <= set(self.domain.parent):
            raise ValueError(
                f"domain.parent {list(self.domain.parent)} holds all of domain.keys "
                f"{list(self.domain.keys)}; a parent is coarser. Name fewer columns, or leave "
                "parent out"
            )
        return self

    @model_validator(mode="after")
    def _tasks_have_labels_of_their_own(self) -> Self:
        readings = [t.reading for t in self.tasks]
        if repeated := sorted({r[0] for r in readings if readings.count(r) > 1}):
            raise ValueError(
                f"label columns {repeated} belong to several tasks each; a task has its own label, "
                "or reads the column with another positive or at_least, or with has_value"
            )
        return self

    @model_validator(mode="after")
    def _a_list_is_read_as_a_list(self) -> Self:
        lists = {f.columns[0]: f.name for f in self.features if f.kind == "list"}
        for feature in self.features:
            shared = [c for c in feature.columns if c in lists and feature.kind != "list"]
            if shared:
                raise ValueError(
                    f"feature '{feature.name}' reads '{shared[0]}' as one value a row, feature "
                    f"'{lists[shared[0]]}' as a list; a column is one or the other"
                )
        for name, split in self.splits.items():
            if listed := sorted(set(split.where) & set(lists)):
                raise ValueError(f"splits.{name}.where names {listed}, which hold lists")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (
            ("feature", [f.name for f in self.features]),
            ("task", [n for t in self.tasks for n in (t.title, t.entire_space_title) if n]),
        ):
            repeated = sorted({n for n in names if names.count(n) > 1})
            if repeated:
                raise ValueError(
                    f"{what} names must be unique; repeated: {', '.join(repeated)}. Give each a "
                    "name of its own"
                )
        orphans = sorted(set(self.tables) - set(self.table_specs))
        if orphans:
            raise ValueError(
                f"tables no feature reads: {', '.join(orphans)}. Features read: "
                f"{', '.join(self.table_specs)}"
            )
        return self

    @model_validator(mode="after")
    def _tables_fit_their_readers(self) -> Self:
        readers: dict[str, list[FeatureSpec]] = {}
        for feature in self.features:
            if table := table_of(feature):
                readers.setdefault(table, []).append(feature)
        for table, features in readers.items():
            names = ", ".join(f.name for f in features)
            if len(features) > 1 and any(f.kind == "numeric" for f in features):
                raise ValueError(
                    f"features {names} share table '{table}', but the buckets of a number need a "
                    "table of their own; rename the number"
                )
            is_identity = self.tables.get(table, _USUAL_TABLE).encoding == "identity"
            if is_identity and any(f.kind not in ("categorical", "list") for f in features):
                raise ValueError(
                    f"features {names} read the identity table '{table}', which takes whole "
                    "numbers from one column; a cross needs encoding 'hash' or 'vocabulary'"
                )
        return self

    @model_validator(mode="after")
    def _dates_can_be_read(self) -> Self:
        log = self.log
        dated = [n for n, s in self.splits.items() if s.dates or s.days]
        if dated and not (log.date_key or log.event_time):
            raise ValueError(
                f"splits {dated} are cut by date, but the log has no date_key or event_time"
            )
        ripening = [t.title for t in self.tasks if t.matures_after]
        if ripening and not (log.event_time or log.date_key):
            raise ValueError(f"tasks {ripening} mature, but the log has no event_time or date_key")
        return self

    @model_validator(mode="after")
    def _fresh_is_known(self) -> Self:
        """Refuse statistics of columns, tasks and windows that this log does not have."""
        for index, spec in enumerate(self.fresh):
            if isinstance(spec, CoOccurrenceSpec):
                self._check_pair(spec, f"fresh.{index}")
            else:
                self._check_counts(spec, f"fresh.{index}")
        if self.base is not None and self.fresh_of("base"):
            raise ValueError(
                'fresh has use = "base", but this base was made elsewhere and reads what it was '
                'made with; write use = "kernel"'
            )
        for names in (self.fresh_names, self.number_names):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"fresh declares '{repeated[0]}' twice; declare each once")
        return self

    def _check_counts(self, spec: CountsSpec, where: str) -> None:
        """Refuse keys that are no ids, unknown tasks, and windows of a log without days."""
        ids = {c for f in self.features if f.kind in ("categorical", "cross") for c in f.columns}
        ids |= {*self.domain.all_keys}
        if unknown := [column for column in spec.keys if column not in ids]:
            raise ValueError(
                f"{where}.keys names {unknown}, which no categorical feature, cross or domain "
                "reads; a key is an id that rows share. Name such a column, or declare the feature"
            )
        self._check_rates(spec.tasks, where)
        is_dated = self.log.date_key or self.log.event_time
        if not is_dated and any(window != "all" for window in spec.windows):
            raise ValueError(
                f"{where}.windows counts days, but the log has no date_key or event_time; "
                'write windows = ["all"]'
            )

    def _check_rates(self, names: tuple[str, ...], where: str) -> None:
        known = rate_names(self.tasks)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{where} names tasks {unknown}; the log has {', '.join(known)}")

    def _check_pair(self, spec: CoOccurrenceSpec, where: str) -> None:
        """Refuse a pair that is no item and history of one table."""
        item, history = spec.pair
        tables = {
            "categorical": {f.columns[0]: table_of(f) for f in self.features if f.kind != "list"},
            "list": {f.columns[0]: table_of(f) for f in self.features if f.kind == "list"},
        }
        for kind, column in (("categorical", item), ("list", history)):
            if column not in tables[kind]:
                raise ValueError(
                    f"{where}.pair names '{column}', which no {kind} feature reads; expected "
                    "[column of an item, list column of a history]"
                )
        if tables["categorical"][item] != tables["list"][history]:
            raise ValueError(
                f"{where}.pair {list(spec.pair)}: features read them from two tables, so their ids "
                f'need not mean the same. Give the list table = "{tables["categorical"][item]}"'
            )
        self._check_rates((spec.task,) if spec.task else (), where)

    @model_validator(mode="after")
    def _splits_are_disjoint(self) -> Self:
        names = list(self.splits)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                if {a, b} != {"pretrain", "tune"} and may_share_rows(
                    self.splits[a], self.splits[b]
                ):
                    raise ValueError(
                        f"splits '{a}' and '{b}' may share rows; give them disjoint dates, "
                        "values or slices (only pretrain and tune may overlap). "
                        f"'{a}' has {self.splits[a].conditions}; "
                        f"'{b}' has {self.splits[b].conditions}"
                    )
        return self


def may_share_rows(a: SplitSpec, b: SplitSpec) -> bool:
    """Return whether a row may meet the conditions of both splits."""
    if a.slice[1] <= b.slice[0] or b.slice[1] <= a.slice[0]:
        return False
    if any(not set(a.where[c]) & set(b.where[c]) for c in a.where.keys() & b.where.keys()):
        return False
    if a.dates and b.dates:
        return a.dates[0] <= b.dates[1] and b.dates[0] <= a.dates[1]
    if a.days and b.days:
        return not (_ends_before(a.days, b.days) or _ends_before(b.days, a.days))
    return True


def _ends_before(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return whether window `a` ends before `b` starts, for a log of any length."""
    counted_from_the_same_end = (a[1] < 0) == (b[0] < 0)
    return counted_from_the_same_end and a[1] < b[0]
