"""A fit never validates worse than its start, and a domain's own weights serve its rows alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.model.loss import TaskShape
from infra.benchmarks.quality.setup import FrozenRows
from infra.benchmarks.quality.trainer import POOLED, Fit, batch_rows, fit_by_domain, mean_loss

TASKS = (TaskShape(name="ctr", kind="click", weight=0.5),)
SIGNS = {"a": 1.0, "b": -1.0}


def rows_of(seed, rows=1_000, *, domains=("a", "b"), noise=False):
    """Rows whose label follows x, with another sign in each domain."""
    generator = torch.Generator().manual_seed(seed)
    x_NX = torch.randn(rows, 3, generator=generator)
    names = tuple(domains[n % len(domains)] for n in range(rows))
    sign_N = torch.tensor([0.0 if noise else SIGNS[name] for name in names])
    p_N = (3 * sign_N * x_NX[:, 0]).sigmoid()
    labels_NT = (torch.rand(rows, generator=generator) < p_N).float()[:, None]
    mask_NT = torch.ones_like(labels_NT, dtype=torch.bool)
    return FrozenRows(
        h_NH=x_NX, x_NX=x_NX, s_NS=x_NX[:, :0], labels_NT=labels_NT, mask_NT=mask_NT, domains=names
    )  # fmt: skip


def logits(weights, rows):
    return rows.x_NX @ weights["w"]


def fit(tune, valid, *, domains=("a", "b"), lr=0.05, seed=0):
    start = {"w": torch.zeros(3, 1)}
    return fit_by_domain(
        logits, start, tune=tune, valid=valid, domains=domains, tasks=TASKS, lr=lr, seed=seed
    )


def test_domains_that_differ_get_weights_that_differ():
    fitted = fit(rows_of(1), rows_of(2))
    assert fitted.by_domain["a"]["w"][0] > 0.5
    assert fitted.by_domain["b"]["w"][0] < -0.5
    assert abs(fitted.by_domain[POOLED]["w"][0]) < 0.3


@pytest.mark.parametrize("lr", [1e-3, 3.0])
def test_no_step_makes_validation_worse_than_the_start(lr):
    tune, valid = rows_of(1, noise=True), rows_of(2, noise=True)
    fitted = fit(tune, valid, lr=lr)
    before = mean_loss(logits, {"w": torch.zeros(3, 1)}, valid, TASKS)
    assert mean_loss(logits, fitted.by_domain[POOLED], valid, TASKS) <= before


def test_a_fit_that_still_improves_at_its_last_epoch_is_at_its_cap():
    assert POOLED in fit(rows_of(1, domains=("a",)), rows_of(2, domains=("a",)), lr=1e-4).at_cap
    assert fit(rows_of(1), rows_of(2), lr=0.3).at_cap == ()


def test_a_row_is_predicted_by_its_domain_else_by_the_pooled_weights():
    weights = {"a": torch.full((3, 1), 1.0), POOLED: torch.full((3, 1), 2.0)}
    fitted = Fit(logits=logits, by_domain={n: {"w": w} for n, w in weights.items()}, at_cap=())
    rows = rows_of(4, rows=60)
    sums_N1 = rows.x_NX.sum(1, keepdim=True)
    factor_N1 = torch.tensor([[1.0] if name == "a" else [2.0] for name in rows.domains])
    torch.testing.assert_close(fitted.predict(rows), sums_N1 * factor_N1)


def test_the_same_seed_fits_the_same_weights():
    one, again, other = (fit(rows_of(1), rows_of(2), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.by_domain["a"]["w"], again.by_domain["a"]["w"])
    assert not torch.equal(one.by_domain["a"]["w"], other.by_domain["a"]["w"])


def test_the_loss_is_a_weighted_mean_over_labelled_rows():
    rows = rows_of(5, rows=100)
    zero = {"w": torch.zeros(3, 1)}
    assert mean_loss(logits, zero, rows, TASKS) == pytest.approx(0.5 * 0.693147, abs=1e-5)


@given(st.integers(0, 10**7))
def test_a_batch_is_a_power_of_two_between_bounds(rows):
    batch = batch_rows(rows)
    assert batch in (1, 128, 256, 512, 1024)
    assert (batch == 1) == (rows == 0)
