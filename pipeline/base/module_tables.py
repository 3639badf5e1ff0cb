"""Choose the tables of an adopted module that workers share, publish them, and open them frozen.

    module.safetensors                          all other weights of the module
    tables/<layer>/r<row>-c<col>.safetensors    the rows of each table, as those of any other base

Which tables are shared is found by trial: each is looked up elsewhere, by itself, and the module
must answer some rows as before, bit for bit. A table for which it does not stays whole.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base.module_weights import ModuleFiles, write_weights
from iak.pipeline.base.published_base import shapes_of
from iak.pipeline.errors import Corrupt
from iak.pipeline.model.adopted import AdoptedModel, made_row
from iak.pipeline.model.module_tables import (
    FoundTables,
    Table,
    WeightRead,
    find_tables,
    replace_tables,
)
from iak.pipeline.model.tables import LocalShard
from iak.pipeline.process import Worker
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.mapped import MapFolder
from iak.pipeline.sharding.placement_rule import check_covers, lay_out
from iak.pipeline.sharding.rectangles import (
    Source,
    cover_problems,
    entries_of,
    listed,
    matrix_of,
    write_rectangles,
)
from iak.schemas.job import Precision
from iak.schemas.manifest import TableEntry
from iak.schemas.plan import ResolvedPlacement

Rows = tuple[KeyedJaggedTensor, Tensor]
"""Ids and numbers of some rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesOnWorker:
    """How a worker stores the tables of a module, and which part of them."""

    worker: Worker
    precisions: Mapping[str, Precision]
    """The type of each table's entries."""
    placement: ResolvedPlacement
    """A plan to follow, or settings of the rule."""
    mapped_at: MapFolder | None = None
    """Folder from which tables are mapped whole, instead of being placed; None to place them."""


def judged_tables(model: AdoptedModel, rows: Rows) -> FoundTables:
    """Return the tables that can be looked up elsewhere, and why the others cannot.

    Args:
        model: the module with all its weights. It is as before when this returns.
        rows: some rows of the log.
    """
    found = find_tables(model.module)
    batches = [rows, made_row(*rows)]
    try:
        before = [_answers(model, batch) for batch in batches]
    except Exception as error:  # noqa: BLE001 - code of others may raise anything
        reason = (
            "a worker without rows looks up one with id 0 in every feature, and of that the module "
            f"says {type(error).__name__}: {error}"
        )
        return FoundTables(tables={}, whole=found.whole | dict.fromkeys(found.tables, reason))
    reasons = {
        name: _trial(model, name, table, batches, before) for name, table in found.tables.items()
    }
    return FoundTables(
        tables={name: table for name, table in found.tables.items() if not reasons[name]},
        whole=found.whole | {name: reason for name, reason in reasons.items() if reason},
    )


def write_module(
    module: nn.Module, names: Collection[str], folder: Path, *, source: str
) -> ModuleFiles:
    """Write a module's weights into a base's folder.

    Args:
        module: the module.
        names: layers whose weights are published as tables.
        folder: folder of the base.
        source: SHA-256 of the source file of its factory.
    """
    own = module.state_dict()
    tables_RW = {name: own.pop(f"{name}.weight") for name in names}
    shards = [
        LocalShard(table=name, row_offset=0, col_offset=0, tensor_RW=table_RW)
        for name, table_RW in tables_RW.items()
    ]
    return ModuleFiles(
        folder=folder,
        files=[write_weights(own, folder), *listed(write_rectangles(shards, folder))],
        tables=[
            # A table is read by its layer: only the module knows by which features.
            TableEntry(name=name, rows=len(table_RW), width=table_RW.shape[1], features=[name])
            for name, table_RW in tables_RW.items()
        ],
        source=source,
    )


def frozen_tables(tables: Sequence[TableEntry], at: TablesOnWorker) -> FrozenTables:
    """Lay out the tables of a module on this worker; `fill_tables` gives them their values.

    Args:
        tables: all tables of the base.
        at: their precisions and places.

    Raises:
        BadRequest: the plan is for other tables, or a table cannot be stored in its precision.
    """
    shapes = shapes_of(tables)
    plan = lay_out(shapes, at.placement, worker=at.worker, precisions=at.precisions)
    check_covers(plan, {shape.name: (shape.rows, shape.width) for shape in shapes})
    return FrozenTables(
        shapes, plan, worker=at.worker, precisions=at.precisions, mapped_at=at.mapped_at
    )


def fill_tables(tables: FrozenTables, published: ModuleFiles) -> None:
    """Read this worker's part of the tables from a base's files.

    Args:
        tables: tables from `frozen_tables`.
        published: the files.

    Raises:
        BadRequest: a value is outside the range of its table's precision.
        Corrupt: a file is missing, or not what was published.
    """
    entries = entries_of(published.files)
    problems = []
    for name, shape in tables.shapes.items():
        files = [entry for entry in entries if entry.table == name]
        if not files or matrix_of(files).shape != (shape.rows, shape.width):
            problems.append(f"{len(files)} files do not make up table {name}")
        else:
            problems += cover_problems(name, matrix_of(files), files)
    if problems:
        raise Corrupt(
            f"{published.folder} lacks tables that its manifest has: {'; '.join(problems)}. Adopt "
            "the base again"
        )
    tables.fill(Source(published.folder, entries).read)


def is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same; NaN is the same as NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
def _answers(model: AdoptedModel, rows: Rows) -> tuple[Tensor, Tensor]:
    h_BH = model.represent(*rows).h_BH
    return h_BH, model.heads(h_BH)


@torch.no_grad()
def _trial(
    model: AdoptedModel,
    name: str,
    table: Table,
    batches: Sequence[Rows],
    before: Sequence[tuple[Tensor, Tensor]],
) -> str:
    """Return why a table cannot be looked up elsewhere; empty where the module answers as before.

    Args:
        model: the module, which is as before when this returns.
        name: name of the table's layer.
        table: the layer.
        batches: rows to answer.
        before: what the module answered them.
    """
    calls = 0

    def look_up(_: str, ids_I: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return embedding(ids_I, table.weight)

    replace_tables(model.module, [name], look_up)
    calls_of = []
    try:
        for rows, (h_before, logits_before) in zip(batches, before, strict=True):
            calls = 0
            h_BH = model.represent(*rows).h_BH
            calls_of.append(calls)
            logits_BT = model.heads(h_BH)
            if calls > calls_of[-1]:
                return "tail(h) reads it, and workers call that a different number of times"
            if not (is_same(h_BH, h_before) and is_same(logits_BT, logits_before)):
                return "the module answers otherwise where its rows are looked up elsewhere"
    except WeightRead:
        return "the module reads its weight other than by a lookup"
    except Exception as error:  # noqa: BLE001 - code of others may raise anything
        return f"the module cannot look it up elsewhere: {type(error).__name__}: {error}"
    finally:
        model.module.set_submodule(name, table)
    if len(set(calls_of)) > 1:
        return "the number of its lookups depends on the rows, so that workers would disagree"
    return "" if calls_of[0] else "represent(ids, numbers) does not look it up"
