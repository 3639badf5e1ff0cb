"""What the generator knows: its probabilities lie beside their rows, and its features fit."""

import numpy as np
import pytest
from scipy.special import expit

from iak.pipeline.stats.auc import auc
from infra.benchmarks.quality.generator import fit_logistic, scaled_features, true_probabilities
from infra.benchmarks.quality.logs import events_of, open_separated
from infra.benchmarks.quality.setup import Slice
from infra.benchmarks.specs import BenchQualitySpec

SMALL = {"planted_rows": 20_000, "planted_days": 12, "planted_users": 300, "planted_regions": 2}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return open_separated(
        "planted", BenchQualitySpec(cache=tmp_path_factory.mktemp("cache"), **SMALL)
    )


@pytest.mark.parametrize("split", ["valid", "test"])
def test_each_row_has_the_probability_that_its_label_was_drawn_from(log, split):
    rows = Slice(log.test if split == "test" else log.window, split)
    labels = events_of(rows.window, split, ["label_click"])[0].to_numpy()
    true_p, shared_p = (true_probabilities(rows, suffix)["ctr"] for suffix in ("", "_global"))
    assert len(true_p) == len(labels) == log.rows[split]
    error = np.sqrt((true_p * (1 - true_p)).sum())
    assert abs(true_p.sum() - labels.sum()) < 4 * error
    # Rows in another order would rank at random.
    assert auc(labels, true_p) > auc(labels, shared_p) > 0.6
    both = true_probabilities(rows)
    np.testing.assert_allclose(both["ctcvr"], both["ctr"] * both["cvr"])


def test_methods_that_know_the_truth_see_none_of_the_rows_they_learn_from(log):
    assert log.has_truth
    with pytest.raises(FileNotFoundError):
        true_probabilities(Slice(log.window, "tune"))


def test_every_row_has_one_category_daypart_and_scene(log):
    features = scaled_features(Slice(log.test, "test"), 0)
    assert features.shape == (log.rows["test"], 16 + 5 * 16 + 1 + 1 + 4 + 1)
    is_one_hot = features != 0
    for part in (slice(0, 16), slice(16, 96), slice(98, 102)):
        assert (is_one_hot[:, part].sum(axis=1) == 1).all()


def test_coefficients_are_those_that_labels_follow_and_shrink_under_a_penalty():
    random = np.random.default_rng(0)
    features = random.normal(size=(60_000, 3)).astype(np.float32)
    given, true = random.normal(size=60_000), np.array([0.5, -1.0, 0.0])
    labels = (random.random(60_000) < expit(given + features @ true)).astype(np.float32)
    np.testing.assert_allclose(fit_logistic(features, given, labels, 1.0), true, atol=0.05)
    np.testing.assert_allclose(fit_logistic(features, given, labels, 1e9), 0.0, atol=1e-3)
