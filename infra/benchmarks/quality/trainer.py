"""Fit a model over frozen activations: one for all rows first, then one for each domain from it.

Both steps stop early on validation rows and keep their best state. The untouched start is among the
candidates, so that no step can make validation worse. The learning rate is constant; a fit that is
still improving at its last epoch is reported as at its cap.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iak.pipeline.model.loss import TaskShape, share_of_mean, task_losses
from infra.benchmarks.quality.setup import FrozenRows

Weights = dict[str, Tensor]
Logits = Callable[[Mapping[str, Tensor], FrozenRows], Tensor]
"""Returns logits_BT of some rows under some weights."""
POOLED = "pooled"
_MAX_EPOCHS, _PATIENCE = 40, 3
_PREDICT_ROWS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The fitted weights, for all rows and for single domains."""

    logits: Logits
    by_domain: Mapping[str, Weights]
    """Domain -> its weights; `pooled` for all others."""
    at_cap: tuple[str, ...]
    """Names of the fits that were still improving at the last epoch."""

    @torch.no_grad()
    def predict(self, rows: FrozenRows) -> Tensor:
        """Return logits_NT, each row by its domain's weights, else by the pooled ones."""
        names = [name if name and name in self.by_domain else POOLED for name in rows.domains]
        logits_NT = torch.empty(len(rows), rows.labels_NT.shape[1])
        for name in dict.fromkeys(names):
            mine = torch.tensor([other == name for other in names]).nonzero()[:, 0]
            for index_B in mine.split(_PREDICT_ROWS):
                logits_NT[index_B] = self.logits(self.by_domain[name], rows.take(index_B))
        return logits_NT


def fit_by_domain(
    logits: Logits,
    start: Weights,
    *,
    tune: FrozenRows,
    valid: FrozenRows,
    domains: Sequence[str],
    tasks: Sequence[TaskShape],
    lr: float,
    seed: int,
) -> Fit:
    """Fit weights on all rows, then on each domain's rows from those weights, at half the rate.

    Args:
        logits: the model.
        start: the weights before the fit.
        tune: tuning rows.
        valid: validation rows, which stop a fit.
        domains: names of the domains that get weights of their own.
        tasks: the tasks with the weights of their losses.
        lr: Adam's rate.
        seed: of the order of rows.
    """
    pooled, is_at_cap = _fit(logits, start, tune, valid, tasks, lr, seed)
    by_domain, at_cap = {POOLED: pooled}, [POOLED] if is_at_cap else []
    for name in domains:
        own, own_valid = tune.of_domain(name), valid.of_domain(name)
        if not len(own_valid):
            continue  # nothing could stop the fit; the pooled weights predict this domain
        by_domain[name], is_at_cap = _fit(logits, pooled, own, own_valid, tasks, lr / 2, seed)
        at_cap += [name] if is_at_cap else []
    return Fit(logits=logits, by_domain=by_domain, at_cap=tuple(at_cap))


def _fit(
    logits: Logits,
    start: Weights,
    tune: FrozenRows,
    valid: FrozenRows,
    tasks: Sequence[TaskShape],
    lr: float,
    seed: int,
) -> tuple[Weights, bool]:
    """Return the best weights, and whether they are those of the last possible epoch."""
    # The untouched start is the first candidate, so that validation cannot become worse.
    weights = {name: w.detach().clone().requires_grad_() for name, w in start.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=lr)
    order = torch.Generator().manual_seed(seed)
    best, best_loss, best_epoch = copy.deepcopy(start), mean_loss(logits, start, valid, tasks), 0
    for epoch in range(1, _MAX_EPOCHS + 1):
        for index_B in torch.randperm(len(tune), generator=order).split(batch_rows(len(tune))):
            rows = tune.take(index_B)
            losses_BT = task_losses(logits(weights, rows), rows.labels_NT, rows.mask_NT, tasks)
            loss = share_of_mean(losses_BT, counts_T=rows.mask_NT.sum(0), tasks=tasks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_now = mean_loss(logits, weights, valid, tasks)
        if loss_now < best_loss:
            best_loss, best_epoch = loss_now, epoch
            best = {name: w.detach().clone() for name, w in weights.items()}
        if epoch - best_epoch >= _PATIENCE:
            return best, False
    return best, best_epoch == _MAX_EPOCHS


def batch_rows(rows: int) -> int:
    """Return the batch of a fit on some rows: about 32 steps an epoch, as kernels take."""
    if not rows:
        return 1
    return int(2 ** round(torch.tensor(max(rows / 32, 1.0)).log2().clamp(7, 10).item()))


@torch.no_grad()
def mean_loss(
    logits: Logits, weights: Mapping[str, Tensor], rows: FrozenRows, tasks: Sequence[TaskShape]
) -> float:
    """Return the sum over tasks of weight times nats of a labelled row."""
    sums_T = torch.zeros(len(tasks), dtype=torch.float64)
    for index_B in torch.arange(len(rows)).split(_PREDICT_ROWS):
        part = rows.take(index_B)
        losses_BT = task_losses(logits(weights, part), part.labels_NT, part.mask_NT, tasks)
        sums_T += losses_BT.sum(0).double()
    means_T = sums_T / rows.mask_NT.sum(0).clamp(min=1)
    return float((means_T * torch.tensor([task.weight for task in tasks])).sum())
