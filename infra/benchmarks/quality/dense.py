"""Train the dense part of the base, or an adapter on it, over frozen tables.

Shapes: B rows, T tasks, R rank.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from iak.pipeline.activations.standardizer import Standardizer
from iak.pipeline.iak import kernel
from iak.pipeline.iak.kernel import KernelShape
from iak.schemas.job import KernelSpec
from infra.benchmarks.quality.cells import Hyper
from infra.benchmarks.quality.methods import Fitted
from infra.benchmarks.quality.setup import FrozenRows, MethodSetup
from infra.benchmarks.quality.space import Choice, LogRange, Space
from infra.benchmarks.quality.trainer import Logits, Weights, fit_by_domain

_IN, _OUT = "|in", "|out"
"""Suffixes of the names of the two factors of a low-rank change."""


class Dense(nn.Module):
    """Trunk and towers: x_BX -> logits_BT."""

    def __init__(self, parts: nn.ModuleDict) -> None:
        """Join the parts of a base."""
        super().__init__()
        self.trunk, self.heads = parts["trunk"], parts["heads"]

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return one logit per task."""
        logits_BT: Tensor = self.heads(self.trunk(x_BX))
        return logits_BT


def rate_space(start: float) -> Callable[[Mapping[str, object]], Space]:
    """Return a search space of the learning rate alone, from `start` / 8 to `start` * 8."""
    return lambda _presets: {"lr": LogRange(start, start / 8, start * 8)}


def lora_space(_presets: Mapping[str, object]) -> Space:
    """Return the search space of LoRA: its learning rate and its rank."""
    return {"lr": LogRange(1e-3, 1e-4, 1e-2), "rank": Choice((8, 4, 16))}


def fit_dense(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Tune every parameter of trunk and towers."""
    module = Dense(setup.dense)

    def logits(weights: Mapping[str, Tensor], rows: FrozenRows) -> Tensor:
        out_BT: Tensor = functional_call(module, dict(weights), (rows.x_NX,))
        return out_BT

    return _fitted(setup, hyper, logits, dict(module.named_parameters()))


def fit_head(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Tune the towers."""
    heads = setup.heads

    def logits(weights: Mapping[str, Tensor], rows: FrozenRows) -> Tensor:
        out_BT: Tensor = functional_call(heads, dict(weights), (rows.h_NH,))
        return out_BT

    return _fitted(setup, hyper, logits, dict(heads.named_parameters()))


def fit_lora(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Tune a low-rank change of every matrix of trunk and towers, and their vectors whole.

    Source: Hu et al. 2022, "LoRA: low-rank adaptation of large language models". The scale is 1.
    """
    logits, start = _lora(setup, hyper)
    return _fitted(setup, hyper, logits, start)


def fit_lora_with_statistics(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Tune LoRA, and a hidden layer over [h ; s] whose output is added to its logits.

    s are the statistics of the window's catalogue. The layer is as wide as a kernel's.
    """
    lora, start = _lora(setup, hyper)
    tune = setup.tune
    read_NR = torch.cat([tune.h_NH, tune.s_NS], dim=1)
    mean_R, scale_R = read_NR.mean(0), read_NR.std(0, correction=0).clamp(min=1e-6)
    hidden, width, tasks = KernelSpec().hidden, read_NR.shape[1], tune.labels_NT.shape[1]
    generator = torch.Generator().manual_seed(setup.seed)
    inner = torch.empty(hidden, width).uniform_(-1, 1, generator=generator) * width**-0.5
    side = {"side.in": inner, "side.bias": torch.zeros(hidden)}
    # Its output is zero at the start, so that the base is a candidate.
    side["side.out"] = torch.zeros(tasks, hidden)

    def logits(weights: Mapping[str, Tensor], rows: FrozenRows) -> Tensor:
        read_BR = (torch.cat([rows.h_NH, rows.s_NS], dim=1) - mean_R) / scale_R
        hidden_BU = torch.relu(read_BR @ weights["side.in"].T + weights["side.bias"])
        return lora(weights, rows) + hidden_BU @ weights["side.out"].T

    return _fitted(setup, hyper, logits, {**start, **side})


def _lora(setup: MethodSetup, hyper: Hyper) -> tuple[Logits, Weights]:
    """Return the logits of LoRA, and its weights at the start, where it changes nothing."""
    module, rank = Dense(setup.dense), int(hyper["rank"])
    frozen = {name: p.detach() for name, p in module.named_parameters()}

    def logits(weights: Mapping[str, Tensor], rows: FrozenRows) -> Tensor:
        changed = {
            name: frozen[name] + weights[name + _OUT] @ weights[name + _IN]
            if name + _IN in weights
            else weights[name]
            for name in frozen
        }
        out_BT: Tensor = functional_call(module, changed, (rows.x_NX,))
        return out_BT

    return logits, low_rank(frozen, rank, seed=setup.seed)


def low_rank(frozen: Mapping[str, Tensor], rank: int, *, seed: int) -> Weights:
    """Return the factors of a change that is zero at the start.

    A tensor whose smaller side is not above the rank has no low-rank change: it is tuned whole.

    Args:
        frozen: parameters by name; the last two dimensions of a matrix count.
        rank: R.
        seed: of the first values of the inner factors.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, w in frozen.items():
        if w.ndim < 2 or min(w.shape[-2:]) <= rank:
            weights[name] = w.clone()
            continue
        # One factor is zero, so the change is too. The other is not, so there are gradients.
        *outer, rows, columns = w.shape
        inner = torch.empty(*outer, rank, columns)
        weights[name + _IN] = inner.uniform_(-(columns**-0.5), columns**-0.5, generator=generator)
        weights[name + _OUT] = torch.zeros(*outer, rows, rank)
    return weights


def fit_bottleneck(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Tune a kernel's network as a plain adapter: no Gaussian, no rate, one phase.

    It is `iak.kernel.run` without noise, of a kernel's sizes, over the same inputs.
    """
    heads, standard = setup.heads, _standardizer(setup.tune)
    spec = KernelSpec(hidden=int(hyper["hidden"]))
    shape = KernelShape.on(heads, spec, inputs=standard.width)
    # The prior, the probe and the variance have no gradient without noise and rate.
    start = kernel.fresh(shape, seed=setup.seed)
    fixed = {name: start.pop(name) for name in (*kernel.PRIOR, *kernel.PROBE)}
    fixed |= {name: start.pop(name) for name in ("logvar_w", "logvar_b")}

    def logits(weights: Mapping[str, Tensor], rows: FrozenRows) -> Tensor:
        a_BA = standard.of(rows.h_NH, rows.x_NX)
        return kernel.run({**weights, **fixed}, heads, rows.h_NH, a_BA, None).logits_BT

    return _fitted(setup, hyper, logits, start)


def bottleneck_space(_presets: Mapping[str, object]) -> Space:
    """Return the search space of the plain adapter."""
    return {"lr": LogRange(1e-3, 1e-4, 1e-2), "hidden": Choice((64, 128))}


def _standardizer(rows: FrozenRows) -> Standardizer:
    """Return the mean and deviation of [h ; x] over some rows; x is not narrowed."""
    a_NA = torch.cat([rows.h_NH, rows.x_NX], dim=1).double()
    deviation_A = a_NA.std(0, correction=0)
    return Standardizer(
        mean_A=a_NA.mean(0).float(),
        scale_A=torch.where(deviation_A > 1e-6, deviation_A, 1.0).float(),
        reads_x=True,
    )


def _fitted(setup: MethodSetup, hyper: Hyper, logits: Logits, start: Weights) -> Fitted:
    """Fit weights by domain, and return them as a fitted method."""
    fit = fit_by_domain(
        logits,
        start,
        tune=setup.tune,
        valid=setup.valid,
        domains=setup.domains(),
        tasks=setup.tasks,
        lr=float(hyper["lr"]),
        seed=setup.seed,
    )
    return Fitted(
        predict=lambda rows: setup.predicted_by_logits(fit.predict(setup.frozen(rows))),
        parameters=sum(w.numel() for w in start.values()),
        copies=len(fit.by_domain),
        at_cap=fit.at_cap,
    )
