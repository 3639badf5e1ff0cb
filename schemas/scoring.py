"""Define `iak predict`: its settings, the document in its files, and its result."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, model_validator

from iak.schemas.base import ResultSpec, Spec, Value, without_userinfo
from iak.schemas.job import CacheSpec, EvaluatedTablesSpec, WorkerJobSpec
from iak.schemas.manifest import Sha256
from iak.schemas.numbers import BatchRows, Rows
from iak.schemas.paths import BaseToRead, BundlesToRead, FolderToWrite
from iak.schemas.plan import PlacedSpec

SCORES_FORMAT = 1
STREAM = "-"
"""What `data_root` says where the log is an Arrow stream on standard input."""
Condition = Annotated[Value, Field(pattern=r"^[^=\[\]]+=")]
"""A column and a value, `region=a`."""


def _range_of(value: object) -> object:
    """Read `2026-10-20..2026-10-28` as its two dates, and a single date as a range of itself."""
    only = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if not isinstance(only, str):
        return value
    first, dots, last = only.partition("..")
    return (first, last if dots else first)


def _forwards(dates: tuple[date, date]) -> tuple[date, date]:
    """Refuse a range whose last date is before its first."""
    if dates[0] > dates[1]:
        raise ValueError(f"{dates[0]}..{dates[1]} runs backwards; expected the earlier date first")
    return dates


DateRange = Annotated[tuple[date, date], BeforeValidator(_range_of), AfterValidator(_forwards)]
"""The first and the last date of a range, both included."""


def admitted_values(conditions: Sequence[Condition]) -> dict[str, tuple[str, ...]]:
    """Return the values that conditions admit, by column."""
    values: dict[str, tuple[str, ...]] = {}
    for condition in conditions:
        column, _, value = condition.partition("=")
        values[column] = (*values.get(column, ()), value)
    return values


class PredictSpec(PlacedSpec, WorkerJobSpec):
    """Predict every task of each row by the kernel of its domain. Labels are not needed."""

    data_root: Annotated[str, AfterValidator(without_userinfo)]
    """Folder or URI below which the catalogue's paths are; given first, without a name. `-` reads
    an Arrow stream from standard input and writes one to standard output."""
    base: BaseToRead
    """Run or folder of the published base, or `registry:PLACE@champion`: the one it runs on."""
    bundles: BundlesToRead | None = None
    """Folder of bundles, or `registry:PLACE@champion`; the base alone predicts when absent."""
    run_dir: FolderToWrite = Path("runs/predict")
    """Folder of the run: record, progress, `predictions/`. On a cluster, a shared folder."""
    dates: DateRange | None = None
    """`dates=2026-10-20..2026-10-28` predicts the rows of these dates, both included; all when
    absent."""
    where: tuple[Condition, ...] = ()
    """`--where region=a --where region=b` predicts the rows of both regions. Conditions on several
    columns must all hold. Folders of other values are not opened."""
    batch_rows: BatchRows = 24_576
    """Rows that a worker predicts at a time. A kernel's weights are read once for all its rows in
    them. Where x has 1,796 units, x and the trunk's layers take about 0.3 GB of 24,576 rows."""
    part_rows: Rows = 262_144
    """Fewest rows of a file of predictions. It holds whole row groups of the log, and a resumed run
    keeps it."""
    tables: EvaluatedTablesSpec = EvaluatedTablesSpec()
    keep_activations: bool = False
    """Also store the base's output for each row in the activation cache. A night finds it, in
    whatever files the rows come then, if it has the same tables.* and cache.precision and starts
    from these bundles (`live=`)."""
    cache: CacheSpec = CacheSpec()

    @model_validator(mode="after")
    def _keeps_what_a_night_reads(self) -> Self:
        if self.keep_activations and self.bundles is None:
            raise ValueError(
                "keep_activations stores rows as the kernels of bundles= read them, and no bundles "
                "are given; name those that the next night starts from"
            )
        return self

    @property
    def is_stream(self) -> bool:
        """Return whether rows come from standard input, so that standard output is for answers."""
        return self.data_root == STREAM

    @property
    def admitted(self) -> dict[str, tuple[str, ...]]:
        """Return the values that `where` admits, by column."""
        return admitted_values(self.where)


class ScoresDocument(Spec):
    """The `iak` entry in the metadata of a file of `iak predict`.

    A file `predictions/part-NUMBER.parquet` has these columns:

    | column | type | meaning |
    |---|---|---|
    | `row` | int64 | key of the row: of its `row_id`, else of its position in its file |
    | `id` | string | the column `row_id` names, as text; absent where the log declares none |
    | `domain` | string | the row's domain; null where it has none |
    | `p.TASK` | double | the task's own probability, a conversion's given its click |
    | `p.ctcvr` | double | a conversion's probability over all rows; of another name `p.ct_NAME` |
    | `kernel` | dictionary of string | the domain whose kernel predicted, or `base` |
    | `version` | dictionary of string | SHA-256 of its manifest; of the base, its fingerprint |
    | `reason` | dictionary of string | why not its own kernel; null where that predicted |

    A row that breaks the log's contract has null probabilities, kernel and version, and the breach
    as its reason.
    """

    kind: Literal["scores"] = "scores"
    format: Literal[1] = 1
    part: NonNegativeInt
    """Number of the file."""
    rows: NonNegativeInt
    """Rows of the file."""
    row_id: str | None
    """Column of the log that `id` holds."""
    tasks: tuple[str, ...]
    """Names of the probabilities."""
    base_fingerprint: str
    """The base that predicted."""
    kernels: dict[str, NonNegativeInt]
    """Name of a kernel, or `base` -> rows that it predicted."""
    reasons: dict[str, NonNegativeInt]
    """Reason -> rows that their own kernel did not predict."""
    contract: dict[str, NonNegativeInt]
    """Findings of the log's contract -> rows."""


class ScoringResult(ResultSpec):
    """What `iak predict` counted, over all its files."""

    rows: NonNegativeInt
    """Rows of the log."""
    parts: NonNegativeInt
    """Files of predictions."""
    kernels: dict[str, NonNegativeInt]
    """Name of a kernel, or `base` -> rows that it predicted."""
    reasons: dict[str, NonNegativeInt]
    """Reason -> rows that their own kernel did not predict."""
    contract: dict[str, NonNegativeInt]
    """Findings of the log's contract -> rows."""
    base_fingerprint: str
    """The base that predicted."""
    bundles: Sha256 | None
    """SHA-256 of the index of the bundles; None where the base alone predicted."""
