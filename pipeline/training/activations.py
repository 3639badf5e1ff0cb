"""What the frozen base makes of the tuning rows: h and x, kept in memory or computed at each use.

Shapes: n rows of this worker, H base units, X embedding units, T tasks, L levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch import distributed as dist

from pipeline.data.batch import to_batch
from pipeline.model.recommender import Representation
from pipeline.process import Worker
from pipeline.sharding.shard import unwrap
from schemas.log import Catalog


class Activations(Protocol):
    """h and x of this worker's rows. A collective call: every worker makes it, rows or none."""

    def of(self, places: Tensor) -> Representation:
        """The representation of the rows at these places."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Activations computed once and held in memory."""

    h: Tensor
    x: Tensor

    def of(self, places: Tensor) -> Representation:
        """The rows' stored activations; no other worker is asked."""
        return Representation(h_BH=self.h[places], x_BX=self.x[places])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Activations looked up in the sharded base each time."""

    model: nn.Module
    rows: pa.Table
    catalog: Catalog
    device: torch.device

    def of(self, places: Tensor) -> Representation:
        """The rows through the frozen tables and trunk, all workers together."""
        batch = to_batch(self.rows.take(pa.array(places.numpy())), self.catalog).to(self.device)
        with torch.no_grad():
            return unwrap(self.model).represent(batch.ids, batch.numeric_BN)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRows:
    """This worker's rows of one split, as the bank needs them.

    Activations lie where the base computes, everything else on the CPU.
    """

    activations: Activations
    labels_nT: Tensor
    mask_nT: Tensor
    slots_nL: Tensor
    """The row's domain at each level, as a number in that level's names; -1 where it has none."""
    identity_n: Tensor
    """Key of each row."""
    users_n: Tensor

    def __len__(self) -> int:
        return self.labels_nT.shape[0]


def compute(
    model: nn.Module,
    rows: pa.Table,
    catalog: Catalog,
    *,
    worker: Worker,
    batch_rows: int,
    advance: Callable[[int], None],
) -> Kept:
    """Every row once through the frozen base.

    Workers step together, so that sharded lookups meet; one that has run out of rows takes part
    with none.
    """
    steps = most(-(-len(rows) // batch_rows), worker)
    h, x = [], []
    through = Recomputed(model=model, rows=rows, catalog=catalog, device=worker.device)
    for step in range(steps):
        places = torch.arange(len(rows))[step * batch_rows : (step + 1) * batch_rows]
        seen = through.of(places)
        h.append(seen.h_BH)
        x.append(seen.x_BX)
        advance(len(places))
    return Kept(h=torch.cat(h), x=torch.cat(x))


def tuning_rows(
    rows: pa.Table, activations: Activations, catalog: Catalog, names: Sequence[Sequence[str]]
) -> TuningRows:
    """The rows with their labels and slots.

    Args:
        rows: encoded rows.
        activations: of the same rows.
        catalog: the log's catalogue.
        names: domain names of each level, in slot order.
    """
    batch = to_batch(rows, catalog)
    slots = [slots_of(rows, level, known) for level, known in enumerate(names)]
    users = rows.column("user").to_numpy() if catalog.log.user else np.zeros(len(rows), np.int64)
    return TuningRows(
        activations=activations,
        labels_nT=batch.labels_BT,
        mask_nT=batch.mask_BT,
        slots_nL=torch.from_numpy(np.stack(slots, axis=1)),
        identity_n=torch.from_numpy(rows.column("row").to_numpy().copy()),
        users_n=torch.from_numpy(users.copy()),
    )


def slots_of(rows: pa.Table, level: int, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each row's place in `names` at this level, -1 for a domain that is not there."""
    column = rows.column(f"l.{level}").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
    place = {name: index for index, name in enumerate(names)}
    lookup = np.array([place.get(n, -1) for n in column.dictionary.to_pylist()] + [-1], np.int64)
    indices = column.indices.fill_null(len(column.dictionary)).to_numpy().astype(np.int64)
    slots: npt.NDArray[np.int64] = lookup[indices]
    return slots


def most(value: int, worker: Worker) -> int:
    """The largest of all workers' values."""
    if worker.world == 1:
        return value
    held = torch.tensor(value, device=worker.device)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return int(held.item())


def total(values: Tensor, worker: Worker) -> Tensor:
    """The sum over workers, where `values` was."""
    if worker.world == 1:
        return values
    summed = values.clone().to(worker.device)
    dist.all_reduce(summed)
    return summed.to(values.device)
