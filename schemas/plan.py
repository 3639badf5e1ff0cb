"""Define a sharding plan: `iak plan save=FILE` writes it, and a job follows it with plan=FILE."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from iak.schemas.base import Spec

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
    tables: Annotated[tuple[TableDocument, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ranks_exist(self) -> Self:
        for table in self.tables:
            beyond = sorted({s.rank for s in table.shards if s.rank >= self.world})
            if beyond:
                raise ValueError(
                    f"table {table.table} lies on ranks {beyond}; there are {self.world} workers"
                )
        return self


class PlacementSpec(Spec):
    """Settings of where a job's tables lie: a plan to follow, or limits of the rule."""

    sharding: dict[str, ShardingType] = {}
    """Table -> sharding type, where the rule's choice is not wanted."""
    row_wise_from_rows: PositiveInt = 10_000
    """Tables of at least so many rows are cut by rows over all workers; shorter ones stay whole."""
    plan: PlanDocument | None = None
    """Plan to follow exactly; it replaces the rule and `sharding`."""
