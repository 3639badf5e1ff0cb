"""Measure what an adopted torch module costs: its memory, its lookups, and the FLOPs of a row.

No setting states the size of such a module, so its factory builds it here, its tables without
values. It answers rows of made ids, once without weights that mean anything: neither its FLOPs nor
its size depend on them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base.adopted_module import build_hollow
from iak.pipeline.data.batch import FULL_ROWS
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.heads import Tail
from iak.pipeline.model.module_tables import LookedUp, WeightRead
from iak.pipeline.model.tables import TableShape
from iak.schemas.feature import FIRST_ROW
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCost:
    """An adopted module: its tables, which workers share, and what each worker has whole."""

    tail: Tail
    """From h to the logits."""
    shapes: tuple[TableShape, ...]
    """The tables that workers share."""
    lookups: Mapping[str, float]
    """Table -> its rows that a row of the log looks up."""
    weights: int
    """Weights that each worker has whole."""
    weight_bytes: int
    """Bytes of these weights, in the precision that the module has them in."""
    flops: float
    """FLOPs of a row from its ids and numbers to h."""
    tail_flops: float
    """FLOPs of a row from h to the logits."""


def module_cost(
    factory: str,
    catalog: Catalog,
    *,
    ids: Mapping[str, float],
    shapes: Sequence[TableShape] | None = None,
) -> ModuleCost:
    """Build a module and count its tables, its weights and its FLOPs.

    Args:
        factory: `package.module:name` of a function without arguments.
        catalog: the log's catalogue, whose features the module reads.
        ids: feature -> mean ids per row.
        shapes: tables of the published base; None for those that an adoption would most likely
            publish: those that represent(ids, numbers) alone reads, and only by lookups.

    Raises:
        BadRequest: the factory cannot build the module, or the module cannot read such rows.
    """
    return _cost(factory, catalog, ids, shapes, is_published=shapes is not None)


def _cost(
    factory: str,
    catalog: Catalog,
    ids: Mapping[str, float],
    shapes: Sequence[TableShape] | None,
    *,
    is_published: bool,
) -> ModuleCost:
    """Count a module with some tables; without a published base, again with those that it can have.

    Args:
        factory: as `module_cost`, as are `catalog` and `ids`.
        catalog: the log's catalogue.
        ids: feature -> mean ids per row.
        shapes: the tables; None for all that its layers are.
        is_published: whether a base has these very tables.
    """
    looked_up: Counter[str] = Counter()
    widths: dict[str, int] = {}

    def look_up(table: str, ids_I: Tensor) -> Tensor:
        looked_up[table] += len(ids_I)
        return torch.zeros(len(ids_I), widths[table])

    module, _ = build_hollow(factory, shapes, look_up)
    tables = _tables(module)
    widths |= {table.name: table.width for table in tables}
    # Before `AdoptedModel` freezes it: a buffer takes memory as a weight does.
    tensors = [*module.parameters(), *module.buffers()]
    model = AdoptedModel(module, tasks=len(catalog.tasks))
    rows = _made_rows(catalog, ids)
    try:
        with torch.no_grad():
            flops, h_BH = _counted(lambda: model.represent(*rows).h_BH)
            before_tail = looked_up.copy()
            tail_flops, _ = _counted(lambda: model.heads(h_BH))
    except WeightRead as read:  # this table stays whole
        fewer = [table for table in tables if table.name != read.table]
        return _cost(factory, catalog, ids, fewer, is_published=is_published)
    except Exception as error:  # the module is code of others, which may raise anything
        raise BadRequest(
            f"the module of base.factory={factory} cannot read {FULL_ROWS} rows of the catalogue's "
            f"features: {type(error).__name__}: {error}. Its represent(ids, numbers) must read "
            f"features {rows[0].keys()} and numbers {list(catalog.number_names)}, and its tail(h) "
            f"{model.heads.units} units"
        ) from error
    used = [t for t in tables if 0 < before_tail[t.name] == looked_up[t.name]]
    if len(used) < len(tables) and not is_published:  # the others stay whole
        return _cost(factory, catalog, ids, used, is_published=is_published)
    return ModuleCost(
        tail=model.heads,
        shapes=tables,
        lookups={table.name: looked_up[table.name] / FULL_ROWS for table in tables},
        weights=sum(tensor.numel() for tensor in tensors),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        flops=flops,
        tail_flops=tail_flops,
    )


def _tables(module: nn.Module) -> tuple[TableShape, ...]:
    """Return the tables whose rows a module looks up elsewhere."""
    return tuple(
        TableShape(
            name=name, rows=layer.num_embeddings, width=layer.embedding_dim, features=(name,)
        )
        for name, layer in module.named_modules()
        if isinstance(layer, LookedUp)
    )


def _made_rows(catalog: Catalog, ids: Mapping[str, float]) -> tuple[KeyedJaggedTensor, Tensor]:
    """Return ids and numbers of `FULL_ROWS` rows, with as many ids as rows of the log have."""
    # A feature that is no list has one id in each row. One with fewer than one reads one here.
    lengths = [max(1, round(ids[feature.name])) for feature in catalog.keyed]
    batch = KeyedJaggedTensor(
        keys=[feature.name for feature in catalog.keyed],
        values=torch.full((sum(lengths) * FULL_ROWS,), FIRST_ROW),
        lengths=torch.tensor(lengths, dtype=torch.int32).repeat_interleave(FULL_ROWS),
    )
    return batch, torch.zeros(FULL_ROWS, len(catalog.number_names))


def _counted(compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the FLOPs of a row in a computation on `FULL_ROWS` rows, and its result."""
    with FlopCounterMode(display=False) as counter:
        result = compute()
    return counter.get_total_flops() / FULL_ROWS, result
