"""Define `iak explain`: its settings, and the document that it writes."""

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field

from iak.schemas.base import Spec, Value
from iak.schemas.job import EvaluatedTablesSpec, LogJobSpec
from iak.schemas.numbers import Whole
from iak.schemas.paths import BaseToRead, BundlesToRead, FileToWrite
from iak.schemas.scoring import Condition, DateRange, admitted_values

Id = Annotated[Value, Field(min_length=1)]


class ChosenRowsSpec(LogJobSpec):
    """Choose rows of a log, and the base that they go through."""

    base: BaseToRead
    """Run or folder of the published base, or `registry:PLACE@champion`: the one it runs on."""
    dates: DateRange | None = None
    """`dates=2026-10-20..2026-10-28` chooses the rows of these dates, both included; all when
    absent."""
    where: tuple[Condition, ...] = ()
    """`--where region=a --where region=b` chooses the rows of both regions. Conditions on several
    columns must all hold. Folders of other values are not opened."""
    tables: EvaluatedTablesSpec = EvaluatedTablesSpec()
    json_out: Annotated[FileToWrite | None, Field(alias="json")] = None
    """File for the result as JSON."""

    @property
    def admitted(self) -> dict[str, tuple[str, ...]]:
        """Return the values that `where` admits, by column."""
        return admitted_values(self.where)


class ExplainSpec(ChosenRowsSpec):
    """Show what the base says of rows, what the kernel adds and in which way, and who serves."""

    bundles: BundlesToRead
    """Folder of bundles, or `registry:PLACE@champion`."""
    against: BundlesToRead | None = None
    """Other bundles on the same base, explained beside: yesterday's folder, or another alias, as
    `registry:PLACE@candidate`."""
    ids: tuple[Id, ...] = ()
    """`--ids 17 --ids 18` explains the rows with these values in the column `log.row_id`."""
    rows: Annotated[Whole, Field(ge=1, le=1_000)] = 20
    """Rows that are explained at most: the first of the log, or of those with `ids`."""


class ExplainedTask(Spec):
    """One task of a row: its logit is the base's, and what the kernel adds in three ways."""

    task: str
    """The catalogue's task; a conversion's logit is that given its click."""
    base_logit: float
    base_probability: float
    through_h: float
    """tower(h + Wd z) - tower(h): the code moves what the tower reads."""
    through_adapters: float
    """What the adapters change after that; 0 on a base whose tail takes none."""
    through_skip: float
    """Ws z + bs: what the code adds to the logit itself."""
    logit: float
    """The sum of base and ways, to the rounding of fp32."""


class Explanation(Spec):
    """One row by the bundles of one setting."""

    kernel: str | None
    """Domain of the kernel that serves the row, or `base`; null where the row is not served."""
    version: str | None
    """SHA-256 of the kernel's manifest; of the base, its fingerprint."""
    reason: str | None
    """Why it is not the kernel of the row's own domain; null where it is."""
    first_day: date | None = None
    """First day of the rows that the kernel was tuned on; null for the base, and without days."""
    last_day: date | None = None
    """Last day of these rows; null where the first one is."""
    created_at: datetime | None = None
    """When the kernel was published; null for the base."""
    rate_nats: float | None = None
    """KL divergence of the row's code from the domain's prior; null for the base."""
    probabilities: dict[str, float] = {}
    """Task -> probability, bit for bit as `iak predict` writes it; none where it is not served."""
    tasks: tuple[ExplainedTask, ...] = ()
    """Each task's logit in its parts; none where the row is not served."""


class ExplainedRow(Spec):
    """One row of the log."""

    row: int
    """Key of the row, as in the files of `iak predict`."""
    id: str | None
    """The column `row_id` names, as text; null where the log declares none."""
    domain: str | None
    """The row's domain; null where it has none."""
    bundles: Explanation
    against: Explanation | None = None
    """The same row by the other bundles, where they were given."""


class ExplanationsDocument(Spec):
    """The file of `iak explain json=FILE`."""

    kind: Literal["explanations"] = "explanations"
    format: Literal[1] = 1
    base_fingerprint: str
    """The base that both bundles run on."""
    bundles: str
    """What the setting named."""
    against: str | None
    """What the setting named; null where it was not given."""
    rows: tuple[ExplainedRow, ...]
    """In the log's order."""
