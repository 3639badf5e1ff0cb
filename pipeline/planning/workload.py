"""What a job asks of a machine, counted from its catalogue and spec: no log, no GPU, no weights.

The dense part is run once on the meta device, where nothing is computed: torch's own counters tell
the FLOPs, and autograd what it keeps for the backward pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from iak.pipeline.base.published_base import build_trunk
from iak.pipeline.errors import BadRequest
from iak.pipeline.iak import bank
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.tables import TableShape
from iak.schemas.feature import FIRST_ROW, ListSpec, table_of
from iak.schemas.job import KernelSpec, ModelSpec
from iak.schemas.log import Catalog

_ROWS = (64, 128)
"""The dense part is run on both; their difference is what a row costs, without what a run does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """The trunk and the towers, a row at a time."""

    parameters: int
    flops: float
    """Of the forward pass, a multiply and an add each."""
    kept_bytes: float
    """What autograd keeps for the backward pass, in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The bank on top of a frozen base."""

    domains: int
    units: int
    """Weights of one kernel, as the bank lays them out."""
    flops: float
    """A row's forward pass through its kernel."""
    kept_units: int
    """Activations a row that the cache keeps: h, and x as it is narrowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A base, and the kernels that may be tuned on it."""

    shapes: tuple[TableShape, ...]
    ids: Mapping[str, float]
    """Mean ids a row, by feature."""
    x_units: int
    h_units: int
    numbers: int
    """Dense numbers a row."""
    tasks: int
    dense: Dense
    kernels: Kernels

    @property
    def ids_a_row(self) -> float:
        """Of all features together."""
        return sum(self.ids.values())


def workload(
    catalog: Catalog,
    model: ModelSpec,
    kernel: KernelSpec,
    *,
    rows: Mapping[str, int],
    ids: Mapping[str, float],
    domains: int,
) -> Workload:
    """Count what the catalogue and the spec ask for.

    Args:
        catalog: the log's.
        model: the base's size.
        kernel: a kernel's.
        rows: of tables, where the catalogue leaves them open or other ones are wanted.
        ids: mean ids a row, by feature, where the catalogue's bound on a list is not to be taken.
        domains: kernels in the bank.

    Raises:
        BadRequest: a table's rows are known to nobody, or a name is unknown.
    """
    shapes = _shapes(catalog, rows, width=model.width)
    widths = {feature: shape.width for shape in shapes for feature in shape.features}
    numbers, tasks = len(catalog.numeric), len(catalog.tasks)
    x_units = sum(widths.values()) + numbers
    with torch.device("meta"):
        trunk = build_trunk(model, width=x_units, tasks=tasks)
        heads = Heads(tasks=tasks, width=model.expert_width, hidden=model.tower_width)
    h_units = tasks * model.expert_width
    return Workload(
        shapes=shapes,
        ids=_ids(catalog, ids),
        x_units=x_units,
        h_units=h_units,
        numbers=numbers,
        tasks=tasks,
        dense=_dense(nn.Sequential(trunk, heads), x_units),
        kernels=_kernels(heads, kernel, x_units=x_units, h_units=h_units, domains=domains),
    )


def _shapes(catalog: Catalog, rows: Mapping[str, int], *, width: int) -> tuple[TableShape, ...]:
    """Every table with its rows, width and readers."""
    specs = catalog.table_specs
    if unknown := sorted(set(rows) - set(specs)):
        raise BadRequest(f"table_rows names unknown tables {unknown}; there are {sorted(specs)}")
    counted = {name: rows.get(name, spec.rows) for name, spec in specs.items()}
    open_ = sorted(name for name, count in counted.items() if count is None)
    if open_:
        told = " ".join(f"table_rows.{name}=N" for name in open_)
        raise BadRequest(
            f"the rows of tables {open_} follow from a log that nobody has read: a vocabulary "
            f"without a bound. Say how many to plan for ({told}), or name a published base (base=)"
        )
    small = sorted(name for name, count in counted.items() if (count or 0) <= FIRST_ROW)
    if small:
        raise BadRequest(f"tables {small} need at least {FIRST_ROW + 1} rows")
    return tuple(
        TableShape(
            name=name,
            rows=int(counted[name] or 0),
            width=spec.width or width,
            features=tuple(f.name for f in catalog.keyed if table_of(f) == name),
        )
        for name, spec in specs.items()
    )


def _ids(catalog: Catalog, ids: Mapping[str, float]) -> dict[str, float]:
    """One id a row; of a list, the most that are kept unless a mean is stated."""
    names = {f.name for f in catalog.keyed}
    if unknown := sorted(set(ids) - names):
        raise BadRequest(f"ids names unknown features {unknown}; there are {sorted(names)}")
    bounds = {f.name: float(f.last) if isinstance(f, ListSpec) else 1.0 for f in catalog.keyed}
    return {name: ids.get(name, bound) for name, bound in bounds.items()}


def _kernels(
    heads: Heads, spec: KernelSpec, *, x_units: int, h_units: int, domains: int
) -> Kernels:
    read_x = (spec.narrow or x_units) if spec.reads == "hx" else 0
    shape = KernelShape.on(heads, spec, inputs=h_units + read_x)
    towers = heads.tasks * heads.hidden * (heads.width + 1)
    return Kernels(
        domains=domains,
        units=bank.units(shape),
        flops=2.0 * (bank.units(shape) + towers),
        kept_units=h_units + read_x,
    )


def _dense(module: nn.Module, x_units: int) -> Dense:
    """What a row costs in trunk and towers."""
    few, many = (_run(module, rows, x_units) for rows in _ROWS)
    rows = _ROWS[1] - _ROWS[0]
    return Dense(
        parameters=sum(p.numel() for p in module.parameters()),
        flops=(many[0] - few[0]) / rows,
        kept_bytes=(many[1] - few[1]) / rows,
    )


def _run(module: nn.Module, rows: int, x_units: int) -> tuple[float, float]:
    """FLOPs of a forward pass, and bytes that autograd keeps of it; each storage counts once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    unpack: Callable[[Any], Any] = lambda tensor: tensor  # noqa: E731 - autograd's own signature
    x_BX = torch.empty(rows, x_units, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, unpack):
        loss = module(x_BX).sum()
    del loss
    return float(counter.get_total_flops()), float(
        sum(t.untyped_storage().nbytes() for t in kept.values())
    )
