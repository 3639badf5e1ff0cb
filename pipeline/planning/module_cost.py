"""Measure what an adopted torch module costs: its memory, and the FLOPs of a row.

No setting states the size of such a module, so its factory builds it here. It answers rows of made
ids, once without weights that mean anything: neither its FLOPs nor its size depend on them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base.adopted_module import build_module
from iak.pipeline.data.batch import FULL_ROWS
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.heads import Tail
from iak.schemas.feature import FIRST_ROW
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCost:
    """An adopted module, which lies whole on every worker."""

    tail: Tail
    """From h to the logits."""
    weights: int
    """Weights of the module, its own tables among them."""
    weight_bytes: int
    """Bytes of these weights, in the precision that the module has them in."""
    flops: float
    """FLOPs of a row from its ids and numbers to h."""
    tail_flops: float
    """FLOPs of a row from h to the logits."""


def module_cost(factory: str, catalog: Catalog, *, ids: Mapping[str, float]) -> ModuleCost:
    """Build a module and count its weights and FLOPs.

    Args:
        factory: `package.module:name` of a function without arguments.
        catalog: the log's catalogue, whose features the module reads.
        ids: feature -> mean ids per row.

    Raises:
        BadRequest: the factory cannot build the module, or the module cannot read such rows.
    """
    module, _ = build_module(factory)
    # Before `AdoptedModel` freezes it: a buffer takes memory as a weight does.
    tensors = [*module.parameters(), *module.buffers()]
    model = AdoptedModel(module, tasks=len(catalog.tasks))
    # A feature that is no list has one id in each row. One with fewer than one reads one here.
    lengths = [max(1, round(ids[feature.name])) for feature in catalog.keyed]
    batch = KeyedJaggedTensor(
        keys=[feature.name for feature in catalog.keyed],
        values=torch.full((sum(lengths) * FULL_ROWS,), FIRST_ROW),
        lengths=torch.tensor(lengths, dtype=torch.int32).repeat_interleave(FULL_ROWS),
    )
    numbers_BN = torch.zeros(FULL_ROWS, len(catalog.number_names))
    try:
        with torch.no_grad():
            flops, h_BH = _counted(lambda: model.represent(batch, numbers_BN).h_BH)
            tail_flops, _ = _counted(lambda: model.heads(h_BH))
    except Exception as error:  # the module is code of others, which may raise anything
        raise BadRequest(
            f"the module of base.factory={factory} cannot read {FULL_ROWS} rows of the catalogue's "
            f"features: {type(error).__name__}: {error}. Its represent(ids, numbers) must read "
            f"features {batch.keys()} and numbers {list(catalog.number_names)}, and its tail(h) "
            f"{model.heads.units} units"
        ) from error
    return ModuleCost(
        tail=model.heads,
        weights=sum(tensor.numel() for tensor in tensors),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        flops=flops,
        tail_flops=tail_flops,
    )


def _counted(compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the FLOPs of a row in a computation on `FULL_ROWS` rows, and its result."""
    with FlopCounterMode(display=False) as counter:
        result = compute()
    return counter.get_total_flops() / FULL_ROWS, result
