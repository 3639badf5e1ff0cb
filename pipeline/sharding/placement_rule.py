"""Place tables on workers by two rules that a person can check, as a TorchRec plan.

Large tables are cut by rows over all workers. Every other table goes whole to the worker with the
fewest bytes so far. (`iak plan` also asks TorchRec's planner, for clusters that are not rented
yet.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)

from iak.pipeline.errors import BadRequest
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker, ranks_per_host
from iak.schemas.job import Precision
from iak.schemas.plan import (
    Job,
    PlacementRuleSpec,
    PlanDocument,
    ResolvedPlacement,
    ShardDocument,
    ShardingType,
    TableDocument,
)
from iak.schemas.table_placement import TablePlacement

TorchRecPlan: TypeAlias = ShardingPlan
"""TorchRec's plan, for packages that must not import torchrec.distributed."""
TABLES_PATH = "tables"
"""The name under which a model holds its tables."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A rectangle of a table, on a rank."""

    rank: int
    row: int
    rows: int
    col: int
    cols: int


def lay_out(
    shapes: Sequence[TableShape],
    placement: ResolvedPlacement,
    *,
    worker: Worker,
    precisions: Mapping[str, Precision] | None = None,
) -> ShardingPlan:
    """Return a job's plan: the one it is given, else the rule's.

    Args:
        shapes: the job's tables.
        placement: a plan to follow, or settings of the rule.
        worker: this process; its world and device are planned for.
        precisions: the type of each table; fp32 for all of them when absent.

    Raises:
        BadRequest: see `planned` and `plan_tables`.
    """
    hosted = ranks_per_host(worker.world)
    if placement.plan is not None:
        return planned(
            placement.plan,
            shapes,
            world=worker.world,
            device=worker.device,
            precisions=precisions,
            ranks_per_host=hosted,
        )
    return plan_tables(
        shapes,
        world=worker.world,
        device=worker.device,
        rule=placement,
        ranks_per_host=hosted,
    )


def plan_tables(
    shapes: Sequence[TableShape],
    *,
    world: int,
    device: torch.device,
    rule: PlacementRuleSpec,
    ranks_per_host: int | None = None,
) -> ShardingPlan:
    """Place every table.

    Args:
        shapes: the tables.
        world: number of workers.
        device: a device of the kind that the workers compute on.
        rule: from how many rows on a table is cut by rows, and the tables whose type is given.
        ranks_per_host: workers on one machine, for CUDA's numbering; all of them when absent.

    Returns:
        A plan in which every element of every table is on exactly one rank.

    Raises:
        BadRequest: the rule names an unknown table, or a cut that cannot be made.
    """
    kinds = _kinds(shapes, world, rule)
    load_bytes = [0] * world
    # The largest first, so that small tables even out the loads; names make the order unique.
    placed: dict[str, ParameterSharding] = {}
    for shape in sorted(shapes, key=lambda shape: (-shape.num_bytes, shape.name)):
        pieces = _cut(shape, kinds[shape.name], load_bytes)
        for piece in pieces:
            load_bytes[piece.rank] += piece.rows * piece.cols * 4
        placed[shape.name] = _parameter_sharding(
            kinds[shape.name], pieces, device.type, ranks_per_host or world
        )
    module_plan = EmbeddingModuleShardingPlan()
    module_plan.update({shape.name: placed[shape.name] for shape in shapes})
    return ShardingPlan(plan={TABLES_PATH: module_plan})


def describe(plan: ShardingPlan) -> list[TablePlacement]:
    """Return the placement of every table, in declared order, for people and records."""
    placements = []
    for table, sharding in _tables_plan(plan).items():
        shards = sharding.sharding_spec.shards
        placements.append(
            TablePlacement(
                table=table,
                type=cast("ShardingType", sharding.sharding_type),
                ranks=tuple(sharding.ranks),
                rows=max(s.shard_offsets[0] + s.shard_sizes[0] for s in shards),
                width=max(s.shard_offsets[1] + s.shard_sizes[1] for s in shards),
                bytes_per_rank=tuple(4 * s.shard_sizes[0] * s.shard_sizes[1] for s in shards),
            )
        )
    return placements


def as_document(plan: ShardingPlan, *, job: Job, world: int, cluster: str = "") -> PlanDocument:
    """Return the plan as a document that `planned` reads back.

    Args:
        plan: plan of fp32 tables.
        job: job that will follow it.
        world: workers that it is for.
        cluster: name of the cluster that it was made for.
    """
    tables = []
    for line, sharding in zip(describe(plan), _tables_plan(plan).values(), strict=True):
        shards = tuple(
            ShardDocument(
                rank=rank,
                row=shard.shard_offsets[0],
                rows=shard.shard_sizes[0],
                col=shard.shard_offsets[1],
                cols=shard.shard_sizes[1],
            )
            for rank, shard in zip(sharding.ranks, sharding.sharding_spec.shards, strict=True)
        )
        named = line.model_dump(include={"table", "type", "rows", "width"})
        tables.append(TableDocument.model_validate({**named, "shards": shards}))
    return PlanDocument(job=job, world=world, cluster=cluster, tables=tuple(tables))


def planned(
    document: PlanDocument,
    shapes: Sequence[TableShape],
    *,
    world: int,
    device: torch.device,
    precisions: Mapping[str, Precision] | None = None,
    ranks_per_host: int | None = None,
) -> ShardingPlan:
    """Return exactly the plan of a document.

    Args:
        document: a plan from `as_document`, or one that a person wrote.
        shapes: the model's tables.
        world: number of workers.
        device: a device of the kind that the workers compute on.
        precisions: the type of each table's entries; fp32, as trained tables have, when absent.
        ranks_per_host: workers on one machine, for CUDA's numbering; all of them when absent.

    Raises:
        BadRequest: the document is for another number of workers, for other tables or precisions,
            or cuts a table as TorchRec cannot. The message names every difference.
    """
    _refuse_other_job(document, shapes, world=world, precisions=precisions or {})
    placed = {table.table: table for table in document.tables}
    module_plan = EmbeddingModuleShardingPlan()
    for name in (shape.name for shape in shapes):
        pieces = [_piece(shard) for shard in placed[name].shards]
        module_plan[name] = _parameter_sharding(
            placed[name].type, pieces, device.type, ranks_per_host or world
        )
    return ShardingPlan(plan={TABLES_PATH: module_plan})


def _refuse_other_job(
    document: PlanDocument,
    shapes: Sequence[TableShape],
    *,
    world: int,
    precisions: Mapping[str, Precision],
) -> None:
    """Refuse a plan for other workers, tables or precisions, or with a cut that TorchRec lacks.

    Raises:
        BadRequest: the message names every difference.
    """
    # Problems are collected, so that one message names all of them.
    sizes = {shape.name: (shape.rows, shape.width) for shape in shapes}
    listed = {table.table: (table.rows, table.width) for table in document.tables}
    problems = [] if document.world == world else [f"workers: plan {document.world}, job {world}"]
    problems += [
        f"table {name} (rows, width): plan {listed.get(name, '-')}, model {sizes.get(name, '-')}"
        for name in sorted(sizes.keys() | listed.keys())
        if sizes.get(name) != listed.get(name)
    ]
    stored = {table.table: table.precision for table in document.tables}
    wanted: dict[str, Precision] = {**dict.fromkeys(sizes, "fp32"), **precisions}
    problems += [
        f"table {name} (precision): plan {stored[name]}, job {wanted[name]}"
        for name in sorted(sizes.keys() & stored.keys())
        if stored[name] != wanted[name]
    ]
    by_name = {table.table: table for table in document.tables}
    if len(by_name) < len(document.tables):
        problems.append("the plan names a table more than once")
    problems += [
        f"table {name}: these shards are not a {table.type} cut over {document.world} workers"
        for name, table in sorted(by_name.items())
        if not _is_cut(table, [_piece(s) for s in table.shards], document.world)
    ]
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise BadRequest(
            f"the saved plan is not for this job:\n{listing}\n"
            "  Plan again for these tables and workers, or give the job those of the plan."
        )


def _piece(shard: ShardDocument) -> _Piece:
    """Return a document's shard as a piece."""
    return _Piece(shard.rank, shard.row, shard.rows, shard.col, shard.cols)


def _is_cut(table: TableDocument, pieces: Sequence[_Piece], world: int) -> bool:
    """Return whether TorchRec cuts a table of this type into these pieces, on any ranks."""
    rows, width = table.rows, table.width
    ranks = [piece.rank for piece in pieces]
    if table.type == "table_wise":
        wanted = [_Piece(ranks[0], 0, rows, 0, width)]
    elif table.type == "column_wise":
        if width % len(pieces):
            return False
        cols = width // len(pieces)
        wanted = [_Piece(rank, 0, rows, i * cols, cols) for i, rank in enumerate(ranks)]
    else:
        wanted = _blocks(rows, width, world)
    return list(pieces) == wanted


def check_covers(plan: ShardingPlan, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a plan that does not place every table whole: TorchRec may drop one (torchrec#3652).

    Args:
        plan: the plan.
        shapes: (rows, width) of every table of the model, by name.

    Raises:
        BadRequest: a table is missing, unknown, or of another shape.
    """
    planned = {
        line.table: (line.rows, line.width, sum(line.bytes_per_rank)) for line in describe(plan)
    }
    wanted = {name: (rows, width, rows * width * 4) for name, (rows, width) in shapes.items()}
    wrong = sorted(name for name in planned | wanted if planned.get(name) != wanted.get(name))
    if wrong:
        lines = "\n".join(f"  {n}: model {wanted.get(n)}, plan {planned.get(n)}" for n in wrong)
        raise BadRequest(
            f"the sharding plan does not place this model's tables (rows, width, bytes):\n{lines}\n"
            "  Make the plan from the same table shapes as the model."
        )


def _tables_plan(plan: ShardingPlan) -> Mapping[str, ParameterSharding]:
    """Return the plan of the module that has the tables."""
    return cast("Mapping[str, ParameterSharding]", plan.plan[TABLES_PATH])


def _kinds(
    shapes: Sequence[TableShape], world: int, rule: PlacementRuleSpec
) -> dict[str, ShardingType]:
    """Return each table's sharding type: the one that is given, else by the table's rows.

    Raises:
        BadRequest: the rule names an unknown table, or a table has fewer rows than there are
            workers to cut it over.
    """
    names = {shape.name for shape in shapes}
    if unknown := sorted(set(rule.sharding) - names):
        raise BadRequest(
            f"placement.sharding names unknown tables {unknown}; there are {sorted(names)}"
        )
    kinds: dict[str, ShardingType] = {}
    for shape in shapes:
        is_long = shape.rows >= max(rule.row_wise_from_rows, world)
        by_rows: ShardingType = "row_wise" if is_long else "table_wise"
        kinds[shape.name] = rule.sharding.get(shape.name, by_rows)
        if kinds[shape.name] == "row_wise" and shape.rows < world:
            raise BadRequest(
                f"table {shape.name} has {shape.rows} rows, fewer than {world} workers; "
                "it cannot be row_wise: use table_wise"
            )
    return kinds


def _cut(shape: TableShape, kind: ShardingType, load_bytes: Sequence[int]) -> list[_Piece]:
    """Cut one table into pieces.

    Args:
        shape: the table.
        kind: sharding type of the table.
        load_bytes: bytes that each rank has already. The lightest ranks get the pieces.
    """
    world = len(load_bytes)
    lightest = sorted(range(world), key=lambda rank: (load_bytes[rank], rank))
    if kind == "table_wise":
        return [_Piece(lightest[0], 0, shape.rows, 0, shape.width)]
    if kind == "column_wise":
        parts = column_parts(shape.width, world)
        cols = shape.width // parts
        ranks = sorted(lightest[:parts])
        return [_Piece(rank, 0, shape.rows, i * cols, cols) for i, rank in enumerate(ranks)]
    return _blocks(shape.rows, shape.width, world)


def _blocks(rows: int, width: int, world: int) -> list[_Piece]:
    """Cut rows into equal blocks, as TorchRec routes ids: by id // ceil(rows / world).

    The last ranks may have fewer rows, or none.
    """
    block = -(-rows // world)
    starts = [min(rank * block, rows) for rank in range(world + 1)]
    return [
        _Piece(rank, starts[rank], starts[rank + 1] - starts[rank], 0, width)
        for rank in range(world)
    ]


def column_parts(width: int, world: int) -> int:
    """Return the largest number of equal bands of columns, at most one per rank.

    Each band is a multiple of 4 columns, as fbgemm requires; there is one band where none fits.
    """
    fitting = [n for n in range(1, world + 1) if width % n == 0 and (width // n) % 4 == 0]
    return max(fitting, default=1)


def _parameter_sharding(
    kind: ShardingType, pieces: Sequence[_Piece], device_type: str, ranks_per_host: int
) -> ParameterSharding:
    """Describe the pieces in TorchRec's types."""

    def device_of(rank: int) -> str:
        on_cuda = device_type == "cuda"
        return f"rank:{rank}/cuda:{rank % ranks_per_host}" if on_cuda else f"rank:{rank}/cpu"

    shards = [
        ShardMetadata(
            shard_offsets=[piece.row, piece.col],
            shard_sizes=[piece.rows, piece.cols],
            placement=device_of(piece.rank),
        )
        for piece in pieces
    ]
    return ParameterSharding(
        sharding_spec=EnumerableShardingSpec(shards),
        sharding_type=kind,
        # Named, because TorchRec's own choice on a CPU is `dense`, which is ten times slower.
        compute_kernel=EmbeddingComputeKernel.FUSED.value,
        ranks=[piece.rank for piece in pieces],
    )
