"""Noise and steps: functions of the row alone, that look like chance."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iak.pipeline.iak import noise

ROWS = torch.arange(20_000, dtype=torch.int64) * 7919 + 13
int64s = st.integers(-(2**63), 2**63 - 1)
CODE = 5
ALPHA = 1e-4
"""Each draw is fixed, so a test either always passes or never does; the level only says how odd
a draw would have to be to be refused."""


def stream(**changes):
    fields = {"seed": 1, "domain": "region=a", "epoch": 0, "phase": "matching"}
    return noise.stream(**fields | changes)


def streams(count, **changes):
    return torch.full((count,), stream(**changes), dtype=torch.int64)


@given(rows=st.lists(int64s, min_size=1, max_size=50, unique=True), data=st.data())
def test_a_rows_noise_does_not_hang_on_its_batch_or_place(rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    rows_B, own_B = torch.tensor(rows), streams(len(rows))
    whole = noise.gaussian(rows_B, own_B, CODE)
    shuffled = noise.gaussian(rows_B[order], own_B, CODE)
    parts = [
        noise.gaussian(part, streams(len(part)), CODE) for part in (rows_B[:cut], rows_B[cut:])
    ]
    assert torch.equal(whole[order], shuffled)
    assert torch.equal(whole, torch.cat(parts))
    assert torch.isfinite(whole).all()


@given(rows=st.lists(int64s, min_size=1, max_size=50), steps=st.integers(1, 1000))
def test_a_rows_step_lies_in_the_epoch_and_hangs_on_the_row_alone(rows, steps):
    rows_B, steps_B = torch.tensor(rows), torch.full((len(rows),), steps)
    step_B = noise.steps_of(rows_B, streams(len(rows)), steps_B)
    one_by_one = [noise.steps_of(row, streams(1), steps_B[:1]) for row in rows_B.split(1)]
    assert torch.equal(step_B, torch.cat(one_by_one))
    assert ((step_B >= 0) & (step_B < steps)).all()


def test_every_part_of_the_key_makes_other_noise():
    base = noise.gaussian(ROWS, streams(len(ROWS)), CODE)
    for change in ({"seed": 2}, {"domain": "region=b"}, {"epoch": 1}, {"phase": "compression"}):
        other = noise.gaussian(ROWS, streams(len(ROWS), **change), CODE)
        correlation = np.corrcoef(base.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 4 / len(base.flatten()) ** 0.5


def test_the_noise_looks_standard_normal():
    draws = noise.gaussian(ROWS, streams(len(ROWS)), CODE).double().numpy()
    for unit in draws.T:
        assert stats.kstest(unit, "norm").pvalue > ALPHA
    count = draws.size
    assert abs(draws.mean()) < 4 / count**0.5
    assert abs(draws.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(stats.skew(draws, axis=None)) < 4 * (6 / count) ** 0.5
    assert abs(stats.kurtosis(draws, axis=None)) < 4 * (24 / count) ** 0.5


def test_units_of_the_code_are_not_correlated():
    draws = noise.gaussian(ROWS, streams(len(ROWS)), CODE).numpy()
    both = np.concatenate([draws, draws**2], axis=1)
    correlations = np.corrcoef(both.T) - np.eye(2 * CODE)
    assert np.abs(correlations).max() < 5 / len(ROWS) ** 0.5


def test_noise_of_neighbouring_rows_is_not_correlated():
    draws = noise.gaussian(ROWS, streams(len(ROWS)), CODE).numpy()
    correlation = np.corrcoef(draws[:-1].flatten(), draws[1:].flatten())[0, 1]
    assert abs(correlation) < 4 / draws.size**0.5


def test_steps_are_uniform_and_new_each_epoch():
    steps_B = torch.full((len(ROWS),), 25)
    first, second = (
        noise.steps_of(ROWS, streams(len(ROWS), epoch=epoch), steps_B) for epoch in (0, 1)
    )
    for step_B in (first, second):
        assert stats.chisquare(torch.bincount(step_B, minlength=25)).pvalue > ALPHA
    together = torch.bincount(first * 25 + second, minlength=625)
    assert stats.chisquare(together).pvalue > ALPHA


def test_a_rows_step_says_nothing_of_its_noise():
    own = streams(len(ROWS))
    step_B = noise.steps_of(ROWS, own, torch.full((len(ROWS),), 25)).double()
    draws = noise.gaussian(ROWS, own, CODE).double()
    for unit in draws.T:
        for values in (unit, unit**2):
            assert abs(np.corrcoef(values, step_B)[0, 1]) < 5 / len(ROWS) ** 0.5


@given(units=st.integers(1, 9))
def test_uniform_numbers_never_leave_the_unit_interval(units):
    u_BC = noise.uniform(ROWS, units)
    assert u_BC.shape == (len(ROWS), units)
    assert ((u_BC > 0) & (u_BC <= 1)).all()
    assert stats.kstest(u_BC.flatten().numpy(), "uniform").pvalue > ALPHA
