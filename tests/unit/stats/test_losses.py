"""Losses: against sklearn, against the truth, and on sampled logs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss

from iak.pipeline.stats.losses import (
    calibration,
    expected_log_loss,
    label_nats,
    log_loss,
    losses_per_group,
    reachable_share,
    undo_sampling,
)
from tests.unit.stats.planted_rows import planted


def normalized_entropy(labels, p, *, kept=1.0):
    """The log-loss over the entropy of the observed rate, from the log-loss and what it leaves."""
    loss = log_loss(labels, p, kept=kept)
    return loss / (loss + label_nats(labels, p, kept=kept))


def test_log_loss_equals_sklearn():
    labels, _, p_base, *_ = planted()
    assert log_loss(labels, p_base) == pytest.approx(sklearn_log_loss(labels, p_base), rel=1e-12)


def test_a_certain_mistake_costs_a_finite_loss():
    assert log_loss(np.array([1, 0]), np.array([0.0, 1.0])) == pytest.approx(-math.log(1e-7))


def test_knowing_the_rate_alone_has_entropy_one_and_calibration_one():
    labels = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    p = np.full(8, 0.25)
    assert normalized_entropy(labels, p) == pytest.approx(1)
    assert calibration(labels, p) == pytest.approx(1)
    assert calibration(labels, 2 * p) == pytest.approx(2)


def test_the_rate_alone_tells_nothing_of_the_label_and_the_truth_tells_its_information():
    labels = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    assert label_nats(labels, np.full(8, 0.25)) == pytest.approx(0)
    assert label_nats(labels, np.full(8, 0.9)) < 0
    assert label_nats(np.ones(3), np.full(3, 0.5)) is None, "one class alone has no entropy"
    # Two kinds of rows with rates 0.1 and 0.9: ln 2 less the entropy of 0.1.
    kinds = np.repeat([0.1, 0.9], 1000)
    drawn = np.concatenate([np.arange(1000) < 100, np.arange(1000) < 900])
    information = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    assert label_nats(drawn, kinds) == pytest.approx(information)


@given(p=st.floats(0.001, 0.999), kept=st.floats(0.01, 1))
def test_undoing_the_sampling_scales_the_odds_by_the_kept_share(p, kept):
    q = float(undo_sampling(np.array([p]), kept=kept)[0])
    assert q / (1 - q) == pytest.approx(kept * p / (1 - p))


def test_dropping_negatives_and_undoing_it_changes_little():
    labels, p_true, *_ = planted(size=200_000)
    kept = 0.25
    stays = (labels == 1) | (np.random.default_rng(1).random(labels.size) < kept)
    p_sampled = p_true / (p_true + (1 - p_true) * kept)  # what a model of the sampled log learns
    for metric in (log_loss, normalized_entropy, calibration):
        full = metric(labels, p_true)
        assert metric(labels[stays], p_sampled[stays], kept=kept) == pytest.approx(full, rel=0.02)
    assert calibration(labels[stays], p_sampled[stays]) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kept", [0.0, -1.0, 1.5])
def test_a_kept_share_outside_0_to_1_is_refused(kept):
    with pytest.raises(ValueError, match="kept share"):
        undo_sampling(np.array([0.5]), kept=kept)


def test_the_truth_reaches_everything_and_the_base_nothing():
    _, p_true, p_base, p_tuned, *_ = planted()
    assert reachable_share(p_true, p_base, p_true) == pytest.approx(1)
    assert reachable_share(p_true, p_base, p_base) == pytest.approx(0)
    assert 0.5 < reachable_share(p_true, p_base, p_tuned) < 1
    assert reachable_share(p_true, p_true, p_tuned) is None
    assert expected_log_loss(p_true, p_true) < expected_log_loss(p_true, p_tuned)


def test_the_losses_of_groups_are_those_of_their_own_rows():
    labels, _, p_base, _, domain, _ = planted()
    result = losses_per_group(labels == 1, p_base, domain, 5, 0.5)
    for group in range(5):
        mine = domain == group
        assert result.logloss_G[group] == pytest.approx(
            log_loss(labels[mine], p_base[mine], kept=0.5)
        )
        assert result.ne_G[group] == pytest.approx(
            normalized_entropy(labels[mine], p_base[mine], kept=0.5)
        )
        assert result.calibration_G[group] == pytest.approx(
            calibration(labels[mine], p_base[mine], kept=0.5)
        )
        # Influences are of the mean of their own group, so that they sum to zero in each.
        assert result.logloss_influence_N[mine].sum() == pytest.approx(0, abs=1e-9)
        assert result.calibration_influence_N[mine].sum() == pytest.approx(0, abs=1e-9)
