"""Define where the tables of a job lie: what a user asks for, a sharding plan, what workers get.

`iak plan save=FILE` writes a plan, and a job follows it with placement.plan=FILE.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from iak.schemas.base import Spec, with_names
from iak.schemas.numbers import TableRows
from iak.schemas.paths import FileToRead

Job = Literal["pretrain", "finetune"]
ShardingType = Literal["table_wise", "row_wise", "column_wise"]


class ShardDocument(Spec):
    """A rectangle of a table, and the rank that has it."""

    rank: NonNegativeInt
    row: NonNegativeInt
    rows: NonNegativeInt
    col: NonNegativeInt
    cols: PositiveInt


class TableDocument(Spec):
    """One table."""

    table: str
    type: ShardingType
    rows: PositiveInt
    width: PositiveInt
    precision: Literal["fp32", "fp16", "int8", "int4"] = "fp32"
    """Type of its entries in memory: fp32 where tables are trained."""
    shards: Annotated[tuple[ShardDocument, ...], Field(min_length=1)]


class PlanDocument(Spec):
    """A sharding plan, independent of any machine."""

    format: Literal[1] = 1
    """Number of this document's format."""
    job: Job
    world: PositiveInt
    """Workers it is made for."""
    cluster: str = ""
    """Name of the cluster that it was made for, shown to people."""
    tables: tuple[TableDocument, ...]
    """Every table; none for tuning on a base that runs elsewhere."""

    @model_validator(mode="after")
    def _ranks_exist(self) -> Self:
        if self.job == "pretrain" and not self.tables:
            raise ValueError("tables: a plan of a pre-training lists at least one")
        for table in self.tables:
            beyond = sorted({s.rank for s in table.shards if s.rank >= self.world})
            if beyond:
                raise ValueError(
                    f"table {table.table} lies on ranks {beyond}; there are {self.world} workers"
                )
        return self


class PhaseLine(Spec):
    """The estimate of one phase of a job: a line of `iak plan`."""

    phase: str
    rows_per_step: NonNegativeInt
    """Rows of a step, over all ranks."""
    rows: NonNegativeInt
    """Rows of the phase."""
    step_ms: float
    rows_per_s: NonNegativeInt
    hours: float
    bottleneck: str
    """What takes most of a step: a key of `ms`."""
    ms: dict[str, float]
    """Part of a step -> its milliseconds."""
    sent_mib_per_rank: dict[str, float]
    """What is sent -> MiB that leave a rank in a step."""


class PlacementRuleSpec(Spec):
    """Settings of the rule that places every table."""

    sharding: Annotated[dict[str, ShardingType], AfterValidator(with_names)] = {}
    """Table -> sharding type, where the default is not wanted."""
    row_wise_from_rows: TableRows = 10_000
    """Tables at least this long are cut by rows over all workers; shorter ones stay whole."""

    def resolved(self, plan: PlanDocument | None = None) -> "ResolvedPlacement":
        """Return what workers get.

        Args:
            plan: the plan that was read, followed instead of the rule; None where there is none.
        """
        return ResolvedPlacement(
            sharding=self.sharding, row_wise_from_rows=self.row_wise_from_rows, plan=plan
        )


class PlacementSpec(PlacementRuleSpec):
    """Where a job's tables shall lie, as a user asks for it: by the rule, or by a plan."""

    plan: FileToRead | None = None
    """A plan that `iak plan save=FILE` wrote for this job; it is followed exactly, instead of the
    rule."""


class ResolvedPlacement(PlacementRuleSpec):
    """Where a job's tables lie, as its workers get it: no file is left to be read."""

    plan: PlanDocument | None = None
    """Followed exactly where there is one, in the place of the rule."""


class PlacedSpec(Spec):
    """Settings of every job that has tables."""

    placement: PlacementRuleSpec = PlacementRuleSpec()

    @classmethod
    def moved(cls, name: str) -> str | None:
        """Return the present name of a setting of the placement that older versions had here.

        Args:
            name: dotted, `sharding.item_id`.

        Returns:
            `placement.sharding.item_id`; None for any other name.
        """
        placement = cls.model_fields["placement"].annotation
        assert placement is not None, "pydantic keeps every field's annotation"
        is_flat = name.partition(".")[0] in placement.model_fields
        return f"placement.{name}" if is_flat else None

    @model_validator(mode="before")
    @classmethod
    def _refuse_flat(cls, settings: object) -> object:
        for name in settings if isinstance(settings, Mapping) else ():
            if new := cls.moved(str(name)):
                raise ValueError(f"{name} is now {new}")
        return settings
