"""A chain over nights: what begins it, what each night adds, and what counts only once."""

import math
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.publish.chain import LossRows, advance, first_alpha, needed, withdrawn
from iak.pipeline.stats.evidence import BETS
from iak.schemas.chain import ChainState
from iak.schemas.domain import Domain
from iak.schemas.job import ChainSpec

ROME = Domain((("city", "rome"),))
FIRST = date(2026, 10, 7)
SPEC = ChainSpec()
BASE = "b" * 64


def ordinal(day):
    return (day - date(1970, 1, 1)).days


def loss_rows(last, gain, *, days=1, rows=200, spread=0.05, seed=0, late=0, rivals=1):
    """Gate rows of the days up to `last` whose mean gain is near `gain`; the base's loss is 0.5.

    The second task's labels ripen `late` days after the first's.
    """
    draw = np.random.default_rng([seed, ordinal(last)])
    day_n = np.repeat(np.arange(ordinal(last) - days + 1, ordinal(last) + 1), rows)
    mask_nT = np.ones((day_n.size, 2), np.bool_)
    mask_nT[:, 1] = day_n <= ordinal(last) - late
    gain_nT = np.stack([gain + spread * draw.normal(size=day_n.size), np.zeros(day_n.size)], axis=1)
    return LossRows(
        tasks=("ctr", "cvr"), mask_nT=mask_nT, day_n=day_n,
        base_loss_nT=np.stack([np.full(day_n.size, 0.5), np.zeros(day_n.size)], axis=1),
        gain_nT={f"rival {k}": gain_nT - 0.01 * k for k in range(rivals)},
        users_n=np.arange(day_n.size) // 4,
    )  # fmt: skip


def step(state, last, rows, **changed):
    given_ = {"night": last, "domain": ROME, "base_fingerprint": BASE, "spec": SPEC} | changed
    return advance(state, rows, **given_)


def chained(gains, *, state=None, first=FIRST, spec=SPEC, **rows):
    """The steps of nights with these gains: a first one of 7 days, then one new day a night."""
    steps = []
    for index, gain in enumerate(gains):
        last = first + timedelta(days=index)
        steps.append(step(state, last, loss_rows(last, gain, days=7, **rows), spec=spec))
        state = steps[-1].state
    return steps


def test_the_first_night_fixes_the_scale_and_counts_no_evidence():
    (begun,) = chained([0.001])
    state = begun.state
    assert state.scale == pytest.approx(0.5)
    assert (state.began, state.nights, state.log_wealth) == (FIRST, 0, (0.0,) * len(BETS))
    assert state.counted_to == {"ctr": FIRST, "cvr": FIRST}
    assert (begun.observation, begun.log_evidence, state.proved_on) == (None, 0.0, None)
    assert begun.first_gain_low < 0.002


def test_a_large_gain_is_proved_at_once_and_a_small_one_over_nights():
    (large,) = chained([0.02])
    assert large.first_gain_low > SPEC.at_once_margin
    assert (large.state.proved_on, large.state.proved_by) == (FIRST, "one night")
    small = chained([0.004] + [0.01] * 29)
    proved = [s.state.proved_on for s in small]
    night = next(p for p in proved if p)
    assert FIRST < night < FIRST + timedelta(days=25)
    assert proved[-1] == night
    assert small[-1].state.proved_by == "many nights"


def test_without_its_part_of_alpha_the_first_night_proves_nothing():
    patient = SPEC.model_copy(update={"at_once": 0.0})
    (begun,) = chained([0.1], spec=patient)
    assert (begun.first_gain_low, begun.state.proved_on) == (None, None)
    assert (first_alpha(patient), needed(patient)) == (0, pytest.approx(math.log(20)))
    assert needed(SPEC.model_copy(update={"at_once": 1.0})) == math.inf


def test_rows_of_windows_that_overlap_count_once():
    """A window's old days have a gain of 1 and its new day none: the night adds nothing."""
    begun = chained([0.0])[0].state
    last = FIRST + timedelta(days=1)
    rows = loss_rows(last, 0.0, days=7, spread=0.0)
    rows.gain_nT["rival 0"][rows.day_n < ordinal(last)] = 1.0
    assert step(begun, last, rows).observation == 0.0


def test_labels_that_ripen_later_count_when_they_are_ripe():
    begun = chained([0.0], late=2)[0].state
    assert begun.counted_to == {"ctr": FIRST, "cvr": FIRST - timedelta(days=2)}
    last = FIRST + timedelta(days=1)
    rows = loss_rows(last, 0.0, days=7, spread=0.0, late=2)
    ripe = rows.day_n == ordinal(last) - 2
    rows.gain_nT["rival 0"][ripe, 1] = 0.2
    counted = step(begun, last, rows)
    assert counted.observation > 0.01
    assert counted.state.counted_to["cvr"] == last - timedelta(days=2)


def test_the_chain_has_to_be_better_than_both_that_would_serve_without_it():
    alone, both = (chained([0.0, 0.005], rivals=k)[1].observation for k in (1, 2))
    assert alone > 0 > both


@given(st.integers(0, 10))
def test_a_night_at_or_before_the_last_changes_nothing(days_back):
    state = chained([0.0, 0.01])[1].state
    again = FIRST + timedelta(days=1 - days_back)
    repeated = step(state, again, loss_rows(again, 0.5))
    assert repeated.state == state
    assert repeated.observation is None


@given(st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=6), st.data())
def test_a_chain_read_again_from_its_document_goes_on_as_if_never_stored(gains, data):
    cut = data.draw(st.integers(1, len(gains) - 1))
    state = chained(gains[:cut])[-1].state
    read = ChainState.model_validate_json(state.model_dump_json())
    later = chained(gains[cut:], state=read, first=FIRST + timedelta(days=cut))
    assert later[-1].state == chained(gains)[-1].state


def test_another_base_begins_the_chain_again():
    state = chained([0.02, 0.02])[1].state
    last = FIRST + timedelta(days=2)
    begun = step(state, last, loss_rows(last, 0.0, days=7), base_fingerprint="c" * 64).state
    assert (begun.began, begun.nights, begun.proved_on) == (last, 0, None)
    assert begun.base_fingerprint == "c" * 64


def test_a_withdrawn_chain_keeps_its_evidence_and_is_proved_again_by_a_later_night():
    proved = chained([0.02, 0.02])[1].state
    lost = withdrawn(proved)
    assert (lost.proved_on, lost.proved_by) == (None, None)
    assert lost.log_wealth == proved.log_wealth
    later = chained([0.02] * 15, state=lost, first=FIRST + timedelta(days=2))
    assert later[0].state.proved_on is None
    assert later[-1].state.proved_by == "many nights"


@pytest.mark.parametrize("strange", [math.nan, -math.inf, -1e300])
def test_a_loss_that_is_not_a_number_is_the_largest_loss(strange):
    begun = chained([0.0])[0].state
    last = FIRST + timedelta(days=1)
    rows = loss_rows(last, 0.0, spread=0.0)
    rows.gain_nT["rival 0"][:, 0] = strange
    assert step(begun, last, rows).observation == pytest.approx(-SPEC.floor)


def test_nights_without_labels_begin_and_add_nothing():
    unlabelled = loss_rows(FIRST, 0.0)
    unlabelled.mask_nT[:] = False
    assert step(None, FIRST, unlabelled).state is None
    begun = chained([0.0])[0].state
    last = FIRST + timedelta(days=1)
    held = step(begun, last, loss_rows(FIRST, 0.3, days=7))
    assert (held.observation, held.state.nights, held.state.last_night) == (None, 0, last)
