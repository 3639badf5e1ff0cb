"""Tastes of the planted world: domains reorder rows, and drift leaves the base's window."""

from pathlib import Path

import numpy as np

from iak.pipeline.planted.population import CATEGORIES, build_knobs
from iak.pipeline.planted.taste import domain_coefficients, domain_taste
from iak.schemas.synth import SynthSpec
from tests.unit.planted.planted_log import column, read, small, write


def pairs_that_swap(out: Path) -> float:
    """Share of row pairs of one region and day whose order the domain's part reverses."""
    truth = read(out, "truth")
    last = column(truth, "dt") == max(column(truth, "dt"))
    rng = np.random.default_rng(0)
    swaps = []
    for region in set(column(truth, "region")):
        here = last & (column(truth, "region") == region)
        full, common = (column(truth, n)[here] for n in ("p_click", "p_click_global"))
        a, b = rng.integers(len(full), size=(2, 4_000))
        swaps.append(np.mean((full[a] - full[b]) * (common[a] - common[b]) < 0))
    return float(np.mean(swaps))


def test_domains_reorder_rows_and_do_not_only_lift_them(log):
    assert pairs_that_swap(log.out) > 0.05


def test_without_difference_and_drift_there_is_no_domain(tmp_path):
    write(tmp_path / "log", small(domain_difference=0, drift=0))
    assert pairs_that_swap(tmp_path / "log") == 0.0
    truth = read(tmp_path / "log", "truth")
    np.testing.assert_allclose(column(truth, "p_click"), column(truth, "p_click_global"))


def test_standing_sums_to_nothing_over_regions_and_drift_over_the_bases_days():
    still = domain_coefficients(small(drift=0), task=0)
    assert np.abs(still.sum(axis=0)).max() < 1e-9
    assert np.abs(np.diff(still, axis=1)).max() < 1e-9
    knobs = small(domain_difference=0)
    moving = domain_coefficients(knobs, task=0)
    assert np.abs(moving[:, : knobs.base_days].sum(axis=1)).max() < 1e-9


def test_the_last_day_resembles_the_week_before_more_than_the_bases_window():
    knobs = build_knobs(SynthSpec(domain_difference=0))
    path = domain_coefficients(knobs, task=0)
    week = path[:, knobs.base_days : -2].mean(axis=1)
    last = path[:, -1]
    assert ((last - week) ** 2).mean() < 0.2 * (last**2).mean()


def test_domain_taste_unpacks_every_coefficient_once():
    knobs = small()
    width = domain_coefficients(knobs, task=0).shape[-1]
    taste = domain_taste(np.arange(width, dtype=float))
    cells = taste.daypart_category - np.arange(len(CATEGORIES))
    last = len(CATEGORIES) + cells.size
    assert cells.ravel().tolist() == list(range(len(CATEGORIES), last))
    assert [taste.price, taste.distance, *taste.scene, taste.level] == list(range(last, width))
