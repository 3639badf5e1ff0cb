"""Heads, kernels and rows small enough to check by hand, and rows to tune them on."""

import threading
from dataclasses import dataclass, replace

import torch
from torch import nn

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.activations.standardizer import KernelInputs, Standardizer
from iak.pipeline.iak.kernel import KernelShape, fresh
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.model.loss import TaskShape
from iak.pipeline.process import Worker
from iak.pipeline.tuning.context import Stage, TuningContext
from iak.schemas.job import StageSpec

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
TASKS = (
    TaskShape(name="ctr", kind="click"),
    TaskShape(name="cvr", kind="conversion", given=0, weight=0.5),
)
WIDTH, X_UNITS = 6, 5
ONE_DRAWS = threading.Lock()
"""Torch's generator is one for all threads: workers that are threads draw heads in turn."""
SHAPE = KernelShape(
    base=2 * WIDTH, inputs=2 * WIDTH + X_UNITS, hidden=7, code=3, tasks=2, tower_in=WIDTH,
    tower_hidden=4, rank=2,
)  # fmt: skip
TAIL_SHAPE = replace(SHAPE, rank=0, tower_in=0, tower_hidden=0)


def small_heads(seed=0):
    with ONE_DRAWS:
        torch.manual_seed(seed)
        heads = Heads(tasks=2, width=WIDTH, hidden=4)
        for parameter in heads.parameters():
            nn.init.normal_(parameter)
    return heads.requires_grad_(False)


def small_tail():
    """A linear map from h to the logits, which takes no adapters."""
    w_TH = normal(SHAPE.tasks, SHAPE.base, seed=9)
    return Tail(lambda h_BH: h_BH @ w_TH.T, tasks=SHAPE.tasks, units=SHAPE.base)


def stacked(kernels):
    """The weights of kernels by name, with a first dimension of K."""
    return {name: torch.stack([weights[name] for weights in kernels]) for name in kernels[0]}


def moved_kernel(seed, shape=SHAPE, size=0.3):
    """A kernel whose every weight has left its start."""
    draw = torch.Generator().manual_seed(seed)
    weights = fresh(shape, seed=seed)
    return {n: w + size * torch.randn(w.shape, generator=draw) for n, w in weights.items()}


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Kept:
    """Activations at hand."""

    h: torch.Tensor
    x: torch.Tensor

    def of(self, index_B):
        h_BH, x_BX = self.h[index_B], self.x[index_B]
        return KernelInputs(h_BH=h_BH, a_BA=standard().of(h_BH, x_BX))


def tuning_rows(count, domains, seed=0, *, first=0, last=None, slots=None):
    """Rows [first, last) of `count` rows with two levels, some labels missing.

    A domain's labels follow its own direction in x, so there is something to learn.
    """
    last = count if last is None else last
    draw = torch.Generator().manual_seed(seed)
    h = torch.randn(count, 2 * WIDTH, generator=draw).abs()
    x = torch.randn(count, X_UNITS, generator=draw)
    own = torch.randint(-1, domains, (count,), generator=draw) if slots is None else slots
    taste = 2 * normal(domains + 1, X_UNITS, seed=9)
    p_click = (x * taste[own]).sum(1).sigmoid()
    click = (torch.rand(count, generator=draw) < p_click).float()
    order = click * (torch.rand(count, generator=draw) < 0.4).float()
    mask = torch.rand(count, 2, generator=draw) < 0.9
    identity = torch.randint(-(2**62), 2**62, (count,), generator=draw)
    part = slice(first, last)
    return TuningRows(
        activations=Kept(h=h[part], x=x[part]),
        labels_nT=torch.stack([click, order], dim=1)[part],
        mask_nT=mask[part],
        slots_nL=torch.stack([torch.zeros_like(own), own], dim=1)[part],
        identity_n=identity[part],
    )


def only(rows, keep):
    """Some of the rows."""
    return TuningRows(
        activations=Kept(h=rows.activations.h[keep], x=rows.activations.x[keep]),
        labels_nT=rows.labels_nT[keep],
        mask_nT=rows.mask_nT[keep],
        slots_nL=rows.slots_nL[keep],
        identity_n=rows.identity_n[keep],
    )


def standard():
    """A scale that is not trivial."""
    mean = normal(SHAPE.inputs, seed=3) / 2
    return Standardizer(mean_A=mean, scale_A=1 + mean.abs(), reads_x=True)


def context(train, valid, worker=ALONE):
    return TuningContext(heads=small_heads(), tasks=TASKS, train=train, valid=valid, worker=worker)


def stage(*, step_rows=64, beta=1e-3, seed=5, starts_live=False, **changes):
    """A stage of few rows; `changes` are settings of its spec."""
    fields = {
        "lr": 0.01, "compression_epochs": 2, "max_epochs": 4, "live_epochs": 4, "patience": 2,
        "shrink": 0.0, "min_batch": 8, "max_batch": 64, "steps_per_epoch": 8, "decay_share": 0.0,
        "max_steps_per_epoch": 99,
    }  # fmt: skip
    return Stage(
        spec=StageSpec(**fields | changes), step_rows=step_rows, beta=beta, seed=seed,
        starts_live=starts_live,
    )  # fmt: skip
