"""Count the sizes and FLOPs of a job from its catalogue and settings, without log or GPU.

The dense part runs on the meta device, where nothing is computed. Torch counts its FLOPs, and
autograd shows what it keeps for the backward pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from iak.pipeline.base.dense_parts import DenseParts, build_dense
from iak.pipeline.base.given_towers import given_model
from iak.pipeline.base.published_base import history_positions, shapes_with
from iak.pipeline.errors import BadRequest
from iak.pipeline.iak import bank
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.model.tables import TableShape, position_names
from iak.pipeline.planning.module_cost import ModuleCost, module_cost
from iak.schemas.feature import FIRST_ROW, ListSpec
from iak.schemas.given_base import ModuleBaseSpec
from iak.schemas.job import KernelSpec, ModelSpec
from iak.schemas.log import Catalog

_FP32 = 4
_ROWS = (64, 128)
"""Rows of two runs of the dense part. Their difference is the cost of rows, without fixed costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """What reads histories, the trunk and the towers; of an adopted module, all but its tables."""

    parameters: int
    weight_bytes: int
    """Bytes of the parameters on each worker."""
    flops: float
    """FLOPs of a row's forward pass; a multiply and an add count as two."""
    kept_bytes: float
    """Bytes that autograd keeps of a row for the backward pass, in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The bank of kernels on a frozen base."""

    domains: int
    """Kernels in the bank."""
    units: int
    """Weights of one kernel, with the bank's gaps between them."""
    flops: float
    """FLOPs of a row's forward pass through its kernel."""
    kept_units: int
    """Activations of a row in the cache: h, and x or its principal components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A base, and the kernels that may be tuned on it."""

    shapes: tuple[TableShape, ...]
    ids: Mapping[str, float]
    """Feature -> mean ids per row. A position of a history that is read by itself is one too."""
    x_units: int
    numbers: int
    """Numeric features of a row."""
    tasks: int
    dense: Dense
    kernels: Kernels
    history_units: int = 0
    """Units of all values that are read one by one, of a row."""

    @property
    def embedded_units(self) -> int:
        """Return the units that tables answer for a row, and its numbers."""
        return self.x_units + self.history_units

    @property
    def ids_per_row(self) -> float:
        """Return the mean ids per row of all features together."""
        return sum(self.ids.values())


def workload(
    catalog: Catalog,
    model: ModelSpec,
    kernel: KernelSpec,
    *,
    rows: Mapping[str, int],
    ids: Mapping[str, float],
    domains: int,
    module_tables: Sequence[TableShape] | None = None,
) -> Workload:
    """Count the workload that catalogue and settings define.

    Args:
        catalog: catalogue of the log.
        model: size of the base.
        kernel: size of a kernel.
        rows: table -> rows, where the catalogue leaves them open or others are wanted.
        ids: feature -> mean ids per row, where they differ from the catalogue's bound on a list.
        domains: kernels in the bank.
        module_tables: tables of a published base that was a module; None where none is published.

    Raises:
        BadRequest: the rows of a table are not known, or a name is unknown.
    """
    if isinstance(catalog.base, ModuleBaseSpec):
        cost = module_cost(catalog.base.call, catalog, ids=_ids(catalog, ids), shapes=module_tables)
        return _on_module(catalog, cost, kernel, ids=_ids(catalog, ids), domains=domains)
    if catalog.columns_base is not None:
        return _on_given_base(catalog, kernel, rows=rows, ids=ids, domains=domains)
    shapes = _shapes(catalog, rows, model)
    numbers, tasks = len(catalog.number_names), len(catalog.tasks)
    x_units = numbers + sum(s.width * len(s.declared_features) for s in shapes)
    with torch.device("meta"):
        parts = build_dense(catalog, model)
    return Workload(
        shapes=shapes,
        ids=_ids(catalog, ids) | _position_ids(catalog, model, ids),
        x_units=x_units,
        numbers=numbers,
        tasks=tasks,
        dense=_dense(parts, x_units),
        history_units=sum(s.width * (len(s.features) - len(s.declared_features)) for s in shapes),
        kernels=_kernels(
            parts.heads,
            kernel,
            x_units=x_units,
            statistics=len(catalog.fresh_names),
            domains=domains,
        ),
    )


def _on_given_base(
    catalog: Catalog,
    kernel: KernelSpec,
    *,
    rows: Mapping[str, int],
    ids: Mapping[str, float],
    domains: int,
) -> Workload:
    """Count the workload of kernels on a base that runs elsewhere: only its towers are run here."""
    base = catalog.columns_base
    assert base is not None, "another base is counted by its model"
    numbers, tasks = len(catalog.number_names), len(catalog.tasks)
    model = given_model(catalog)
    x_units = numbers + (tasks if model.towers else base.units or 0)
    weights = sum(p.numel() for p in model.towers.parameters()) if model.towers else 0
    return Workload(
        shapes=_shapes(catalog, rows, ModelSpec()),
        ids=_ids(catalog, ids),
        x_units=x_units,
        numbers=numbers,
        tasks=tasks,
        dense=Dense(
            parameters=weights, weight_bytes=_FP32 * weights, flops=2.0 * weights, kept_bytes=0.0
        ),
        kernels=_kernels(
            model.heads,
            _not_widened(kernel, x_units),
            x_units=x_units,
            statistics=len(catalog.fresh_names),
            domains=domains,
            tail_flops=2.0 * weights,
        ),
    )


def _on_module(
    catalog: Catalog,
    cost: ModuleCost,
    kernel: KernelSpec,
    *,
    ids: Mapping[str, float],
    domains: int,
) -> Workload:
    """Count the workload of kernels on a torch module, whose tables workers share."""
    numbers = len(catalog.number_names)
    return Workload(
        shapes=cost.shapes,
        # Each table is read by its layer alone, whatever features that reads.
        ids=cost.lookups if cost.shapes else ids,
        x_units=numbers,
        numbers=numbers,
        tasks=len(catalog.tasks),
        dense=Dense(
            parameters=cost.weights,
            weight_bytes=cost.weight_bytes,
            flops=cost.flops,
            kept_bytes=0.0,  # it is never trained
        ),
        kernels=_kernels(
            cost.tail,
            _not_widened(kernel, numbers),
            x_units=numbers,
            statistics=len(catalog.fresh_names),
            domains=domains,
            tail_flops=cost.tail_flops,
        ),
    )


def _not_widened(kernel: KernelSpec, x_units: int) -> KernelSpec:
    """Return a kernel's settings with which an x narrower than its components stays as it is."""
    narrow = kernel.narrow if kernel.narrow < x_units else 0
    return kernel.model_copy(update={"narrow": narrow})


def _shapes(catalog: Catalog, rows: Mapping[str, int], model: ModelSpec) -> tuple[TableShape, ...]:
    """Return every table with its rows, width and the features that read it.

    Raises:
        BadRequest: the rows of a table are not known or too few, or `rows` names an unknown table.
    """
    specs = catalog.table_specs
    if unknown := sorted(set(rows) - set(specs)):
        raise BadRequest(f"table_rows names unknown tables {unknown}; there are {sorted(specs)}")
    counted = {name: rows.get(name, spec.rows) for name, spec in specs.items()}
    open_ = sorted(name for name, count in counted.items() if count is None)
    if open_:
        settings = " ".join(f"table_rows.{name}=N" for name in open_)
        raise BadRequest(
            f"the rows of tables {open_} are not known before a log is read: their vocabularies "
            f"have no bound. Give the rows to plan for ({settings}), or a published base (base=)"
        )
    small = sorted(name for name, count in counted.items() if (count or 0) <= FIRST_ROW)
    if small:
        raise BadRequest(f"tables {small} need at least {FIRST_ROW + 1} rows")
    return shapes_with(catalog, model, {name: int(count or 0) for name, count in counted.items()})


def _ids(catalog: Catalog, ids: Mapping[str, float]) -> dict[str, float]:
    """Return mean ids per row by feature: one, or a list's bound, unless `ids` states a mean."""
    names = {f.name for f in catalog.keyed}
    if unknown := sorted(set(ids) - names):
        raise BadRequest(f"ids names unknown features {unknown}; there are {sorted(names)}")
    bounds = {f.name: float(f.last) if isinstance(f, ListSpec) else 1.0 for f in catalog.keyed}
    return {name: ids.get(name, bound) for name, bound in bounds.items()}


def _position_ids(catalog: Catalog, model: ModelSpec, ids: Mapping[str, float]) -> dict[str, float]:
    """Return mean ids per row by position of a history: the share of rows that have a value there.

    Every history is taken as long as the mean one.
    """
    of_features = _ids(catalog, ids)
    return {
        name: min(1.0, max(0.0, of_features[feature] - age))
        for feature, positions in history_positions(catalog, model).items()
        for age, name in enumerate(reversed(position_names(feature, positions)))
    }


def _kernels(
    heads: Heads | Tail,
    spec: KernelSpec,
    *,
    x_units: int,
    statistics: int,
    domains: int,
    tail_flops: float = 0.0,
) -> Kernels:
    """Count a kernel's weights, FLOPs and activations; with the FLOPs of a tail, where it has one.

    A tail is no part of a kernel. A row's corrected h goes through it all the same.
    """
    read_x = (spec.narrow or x_units) if spec.reads == "hx" else 0
    shape = KernelShape.on(heads, spec, inputs=heads.units + read_x + statistics)
    towers = heads.tasks * heads.hidden * (heads.width + 1)
    return Kernels(
        domains=domains,
        units=bank.units(shape),
        flops=2.0 * (bank.units(shape) + towers) + tail_flops,
        kept_units=heads.units + read_x + statistics,
    )


def _dense(parts: DenseParts, x_units: int) -> Dense:
    """Count a row's FLOPs and kept bytes in what reads histories, trunk and towers."""
    few, many = (_run(parts, rows, x_units) for rows in _ROWS)
    rows = _ROWS[1] - _ROWS[0]
    weights = [p for part in parts if part is not None for p in part.parameters()]
    return Dense(
        parameters=sum(p.numel() for p in weights),
        weight_bytes=sum(p.nbytes for p in weights),
        flops=(many[0] - few[0]) / rows,
        kept_bytes=(many[1] - few[1]) / rows,
    )


def _run(parts: DenseParts, rows: int, x_units: int) -> tuple[float, float]:
    """Return FLOPs of a forward pass, and bytes that autograd keeps for the backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # By storage, because several saved tensors may be views of one. Keeping the tensor keeps
        # its storage alive, so that no address is used again.
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    unpack: Callable[[Any], Any] = lambda tensor: tensor  # noqa: E731 - autograd's own signature
    x_BX = torch.empty(rows, x_units, device="meta", requires_grad=True)
    histories = parts.histories.on_meta(rows) if parts.histories else []
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, unpack):
        read = torch.cat([x_BX, parts.histories(histories)], dim=1) if parts.histories else x_BX
        loss = parts.heads(parts.trunk(read)).sum()
    del loss
    return float(counter.get_total_flops()), float(
        sum(t.untyped_storage().nbytes() for t in kept.values())
    )
