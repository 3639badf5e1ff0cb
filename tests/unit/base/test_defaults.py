import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.base.defaults import (
    MAX_BATCH,
    MAX_EPOCHS,
    MIN_BATCH,
    RATES_WITH_STATE,
    RATES_WITHOUT_STATE,
    STEPS_PER_EPOCH,
    batch_rows_for,
    epochs_for,
    recipe,
)
from iak.schemas.job import PretrainSpec

ROWS = st.integers(0, 10**12)


def spec(**changes):
    fields = {"catalog": "planted", "data_root": "/logs", "run_dir": "/runs/r"}
    return PretrainSpec.model_validate(fields | changes)


def recipe_of(rows, continues=False, has_state=False, **changes):
    return recipe(spec(**changes), rows=rows, continues=continues, has_state=has_state)


@given(ROWS)
def test_a_batch_is_a_power_of_two_that_gives_an_epoch_enough_steps_within_its_bounds(rows):
    batch = batch_rows_for(rows)
    assert batch == 2 ** int(math.log2(batch))
    assert MIN_BATCH <= batch <= MAX_BATCH
    if batch < MAX_BATCH and rows >= MIN_BATCH * STEPS_PER_EPOCH:
        assert STEPS_PER_EPOCH <= rows / batch < 2 * STEPS_PER_EPOCH


@given(ROWS, ROWS)
def test_a_longer_log_never_gets_smaller_batches_or_more_passes(one, other):
    short, long = sorted((one, other))
    assert batch_rows_for(short) <= batch_rows_for(long)
    assert MAX_EPOCHS >= epochs_for(short) >= epochs_for(long) >= 1


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"),
    [(0, 64, 8), (5_385, 64, 8), (43_696, 128, 8), (345_000, 1024, 8), (1_300_000, 2048, 3),
     (20_000_000, 2048, 1)],
)  # fmt: skip
def test_the_rule_at_the_sizes_it_was_measured_and_beyond(rows, batch, epochs):
    found = recipe_of(rows)
    assert (found.batch_rows, found.epochs) == (batch, epochs)


def test_what_is_given_is_used_and_what_is_open_is_named():
    found = recipe_of(
        43_696, batch_rows=512, patience=1, optim={"table_lr": 0.3, "table_eps": 1e-5}
    )
    assert (found.batch_rows, found.patience, found.optim.table_lr) == (512, 1, 0.3)
    assert found.optim.table_eps == 1e-5
    assert set(found.followed) == {
        "epochs", "validations_per_epoch", "optim.dense_lr", "optim.warmup_steps",
    }  # fmt: skip
    assert found.from_rates == 1.0


@pytest.mark.parametrize(
    ("has_state", "asked", "factor"),
    [(True, None, RATES_WITH_STATE), (False, None, RATES_WITHOUT_STATE), (False, 0.5, 0.5)],
)
def test_both_rates_of_a_continued_base_are_scaled_presets_or_not(has_state, asked, factor):
    found = recipe_of(
        10_000,
        continues=True,
        has_state=has_state,
        from_rates=asked,
        optim={"table_lr": 0.3, "dense_lr": 0.004},
    )
    assert found.from_rates == factor
    assert found.optim.table_lr == pytest.approx(0.3 * factor)
    assert found.optim.dense_lr == pytest.approx(0.004 * factor)
    assert ("from_rates" in found.followed) == (asked is None)
