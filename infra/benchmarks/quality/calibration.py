"""Recalibrate the base's logits by domain: a slope and a bias, or the bias alone.

Source: Platt 1999, "Probabilistic outputs for support vector machines". A penalty on the distance
from slope 1 and bias 0 keeps a domain with few rows near the base.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from iak.pipeline.model.loss import TaskShape
from infra.benchmarks.quality.cells import Hyper
from infra.benchmarks.quality.methods import Fitted
from infra.benchmarks.quality.setup import FrozenRows, MethodSetup
from infra.benchmarks.quality.space import LogRange, Space

Floats = npt.NDArray[np.float64]
Lines = dict[str, Floats]
"""Domain -> slope and bias of every task, (T, 2)."""


def penalty_space(_presets: Mapping[str, object]) -> Space:
    """Return the search space: the penalty, in nats summed over a domain's tuning rows."""
    return {"penalty": LogRange(1.0, 1e-2, 1e3)}


def recalibrate(*, with_slope: bool) -> Callable[[MethodSetup, Hyper], Fitted]:
    """Return the fit of a recalibration.

    Args:
        with_slope: whether a slope is fitted beside the bias.
    """

    def fit(setup: MethodSetup, hyper: Hyper) -> Fitted:
        lines: Lines = {}
        for name in setup.domains():
            rows = setup.tune.of_domain(name)
            lines[name] = fit_lines(
                base_logits(setup, rows),
                rows,
                setup.tasks,
                penalty=float(hyper["penalty"]),
                with_slope=with_slope,
            )
        return Fitted(
            predict=lambda rows: setup.predicted_by_logits(
                _changed(setup, setup.frozen(rows), lines)
            ),
            parameters=(1 + with_slope) * len(setup.tasks),
            copies=len(lines),
        )

    return fit


@torch.no_grad()
def base_logits(setup: MethodSetup, rows: FrozenRows) -> Tensor:
    """Return the base's logits_NT."""
    logits_NT: Tensor = setup.heads(rows.h_NH)
    return logits_NT


def fit_lines(
    logits_NT: Tensor,
    rows: FrozenRows,
    tasks: Sequence[TaskShape],
    *,
    penalty: float,
    with_slope: bool,
) -> Floats:
    """Return slope and bias of every task, (T, 2).

    A conversion's logit is that of P(conversion given click), so it is fitted on clicked rows.

    Args:
        logits_NT: the base's.
        rows: labels and masks of the same rows.
        tasks: one per column.
        penalty: weight of the squared distance from slope 1 and bias 0.
        with_slope: whether the slope may change.
    """
    lines = np.tile([1.0, 0.0], (len(tasks), 1))
    for index, task in enumerate(tasks):
        counts_N = rows.mask_NT[:, index]
        if task.given is not None:
            counts_N = counts_N & (rows.labels_NT[:, task.given] == 1)
        logit_N, label_N = (
            t[counts_N, index].double().numpy() for t in (logits_NT, rows.labels_NT)
        )
        lines[index] = _line(logit_N, label_N, penalty, with_slope)
    return lines


def _line(logit_N: Floats, label_N: Floats, penalty: float, with_slope: bool) -> Floats:
    """Return the slope and bias that minimise log-loss plus penalty, a convex problem."""

    def loss(line: Floats) -> tuple[float, Floats]:
        z_N = line[0] * logit_N + line[1]
        error_N = expit(z_N) - label_N
        gradient = np.array([error_N @ logit_N * with_slope, error_N.sum()])
        away = line - [1.0, 0.0]
        nats = float(np.logaddexp(0.0, z_N).sum() - label_N @ z_N + penalty * (away @ away))
        return nats, gradient + 2 * penalty * away

    solved = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B")
    line: Floats = solved.x
    return line


def _changed(setup: MethodSetup, rows: FrozenRows, lines: Lines) -> Tensor:
    """Return the recalibrated logits; rows of other domains keep the base's."""
    unchanged = np.tile([1.0, 0.0], (len(setup.tasks), 1))
    of_row_NT2 = torch.from_numpy(
        np.stack([lines.get(name or "", unchanged) for name in rows.domains])
    )
    return base_logits(setup, rows).double() * of_row_NT2[..., 0] + of_row_NT2[..., 1]
