"""Place one table in one layout on this worker, and step on it.

    trained   TorchRec's sharded tables: lookup, backward pass, row-wise Adagrad inside it
    frozen    `FrozenTables`: a lookup, in any precision

Shapes: B rows of this worker, W columns, I ids.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.bench.ids import drawn
from iak.pipeline.bench.limits import free_bytes
from iak.pipeline.bench.sharding.sizes import FEATURE, Size
from iak.pipeline.bench.torchrec_variants import tables_state
from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.tables import UniformStart
from iak.pipeline.process import Worker, ranks_per_host
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.placement_rule import describe, plan_tables
from iak.pipeline.sharding.row_format import PRECISIONS, row_bytes
from iak.pipeline.sharding.shard import (
    RowWiseAdagrad,
    freeze_tables,
    local_shards,
    shard,
    table_modules,
    unwrap,
)
from iak.schemas.job import Precision
from iak.schemas.plan import PlacementRuleSpec, ShardingType
from iak.schemas.sharding_result import Mode

_SCALE = 0.01
_LR = 0.01
_SPARE_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a table is cut over the workers, and whether it is trained or frozen, in which type."""

    kind: ShardingType
    mode: Mode
    precision: Precision

    def __str__(self) -> str:
        """Return the layout's sharding type, mode and precision, for progress."""
        return f"{self.kind} {self.mode} {self.precision}"


_MODES: tuple[tuple[Mode, Precision], ...] = (
    ("trained", "fp32"),
    *(("frozen", precision) for precision in PRECISIONS),
)
LAYOUTS: tuple[Layout, ...] = tuple(
    Layout(kind=kind, mode=mode, precision=precision)
    for kind, (mode, precision) in product(get_args(ShardingType), _MODES)
)
"""Every sharding type and precision; trained tables are fp32."""


def check(size: Size, layout: Layout, worker: Worker) -> None:
    """Refuse a table that cannot be placed in this layout. Nothing is exchanged or allocated.

    Raises:
        BadRequest: the table cannot be cut in this layout.
        DoesNotFit: this machine has no room for it beside what it stores already.
    """
    (line,) = describe(_plan_of(size, layout, worker))
    parts = line.ranks
    if layout.kind == "column_wise" and worker.world > 1 and len(parts) < 2:
        raise BadRequest(
            f"{size.width} columns do not split over {worker.world} workers into equal parts "
            "of a multiple of 4, as fbgemm wants them"
        )
    _check_room(size, layout, worker, most=-(-size.rows * size.width // len(parts)))


class PlacedTable:
    """A table that is ready to step."""

    def __init__(self, size: Size, layout: Layout, worker: Worker, *, seed: int) -> None:
        """Take memory for this worker's part and fill it; a collective call, after `check`.

        Raises:
            BadRequest: the table cannot be placed in this layout.
        """
        self.size, self.layout, self.worker = size, layout, worker
        plan = _plan_of(size, layout, worker)
        model = _recommender(size)
        start = UniformStart(table="t", seed=seed, scale=_SCALE)
        if layout.mode == "trained":
            adagrad = RowWiseAdagrad(lr=_LR)
            self.model: nn.Module = shard(model, plan, worker=worker, tables_optimizer=adagrad)
        else:
            precisions = {"t": layout.precision}
            tables = freeze_tables(model, plan, worker=worker, precisions=precisions)
            tables.fill(lambda out_RW, *, table, row, col: _read(start, out_RW, table, row, col))
            self.model = model

    @property
    def held_bytes(self) -> int:
        """Return the bytes of this worker's part, its optimiser's state included."""
        tables = unwrap(self.model).tables
        if isinstance(tables, FrozenTables):
            return tables.num_bytes
        parts = [part.tensor_RW for part in local_shards(self.model)]
        return sum(t.numel() * t.element_size() for t in [*parts, *tables_state(self.model)])

    def step(self, ids: KeyedJaggedTensor) -> None:
        """Look up, and update a trained table by a gradient; a collective call."""
        (mean_BW,) = unwrap(self.model).embed(ids, rows=ids.stride()).means
        if self.layout.mode == "trained":
            mean_BW.backward(torch.full_like(mean_BW, 1e-3))
        settle(self.worker)

    def update_own_rows(self, ids_I: Tensor, offsets_O: Tensor) -> None:
        """Look rows of this worker's part up and update them, without any exchange.

        For a trained table that is cut by rows, of which every worker has a part.
        """
        (module,) = table_modules(self.model)
        sums_BW = module(ids_I, offsets_O)
        sums_BW.backward(torch.full_like(sums_BW, 1e-3))
        settle(self.worker)

    @property
    def own_rows(self) -> int:
        """Return the rows of this worker's part."""
        return sum(len(part.tensor_RW) for part in local_shards(self.model))


def ids_of(size: Size, *, rows: int, worker: Worker, seed: int) -> KeyedJaggedTensor:
    """Draw ids for `rows` rows of this worker from the seed, uniform and by Zipf's law in turn."""
    draw = torch.Generator().manual_seed(seed * worker.world + worker.rank)
    count = rows * size.ids_per_row
    pairs = [drawn(law, -(-count // 2), size.rows, draw) for law in ("uniform", "zipf")]
    ids = KeyedJaggedTensor(
        keys=[FEATURE],
        values=torch.stack(pairs, dim=1).flatten()[:count],
        lengths=torch.full((rows,), size.ids_per_row, dtype=torch.int32),
    )
    return ids.to(worker.device)


def settle(worker: Worker) -> None:
    """Wait until a GPU has done its queued work; a CPU has done it already."""
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)


def _plan_of(size: Size, layout: Layout, worker: Worker) -> Any:  # noqa: ANN401 - torchrec's plan
    """Return the plan that cuts the one table in this layout over all workers."""
    return plan_tables(
        [size.shape],
        world=worker.world,
        device=worker.device,
        rule=PlacementRuleSpec(sharding={"t": layout.kind}),
        ranks_per_host=ranks_per_host(worker.world),
    )


def _recommender(size: Size) -> Recommender:
    """Wrap a table as a model without other parameters."""
    heads = Heads(tasks=1, width=size.width, hidden=1).requires_grad_(requires_grad=False)
    return Recommender(
        tables=build_tables([size.shape], init_scale=_SCALE, device=torch.device("meta")),
        features=[FEATURE],
        num_numeric=0,
        trunk=nn.Identity(),
        heads=heads,
    )


def _read(start: UniformStart, out_RW: Tensor, table: str, row: int, col: int) -> None:
    """Write the values of a part, as a trained table starts with them."""
    assert table == start.table
    start(out_RW, row, col)


def _check_room(size: Size, layout: Layout, worker: Worker, *, most: int) -> None:
    """Refuse what does not fit into free memory; at most `most` elements are on one worker.

    Raises:
        DoesNotFit: there is too little memory.
    """
    rows = -(-most // size.width)
    needed = rows * row_bytes(layout.precision, size.width)
    needed += 4 * rows if layout.mode == "trained" else 0
    if worker.device.type == "cuda":
        free: int | None = torch.cuda.mem_get_info(worker.device)[0]
    else:
        free, needed = free_bytes(), needed * ranks_per_host(worker.world)
    if free is not None and free < needed + _SPARE_BYTES:
        raise DoesNotFit(
            f"{size.title} needs {needed / 2**30:.1f} GiB and one to spare; "
            f"{free / 2**30:.1f} are free beside the other combinations"
        )
