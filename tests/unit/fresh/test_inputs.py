"""Statistics of rows: strictly of the past, or of other folds, and equal to plain counting."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data.fresh_keys import PERIOD, as_of_now
from iak.pipeline.fresh.inputs import readable_counts, statistics_of
from tests.builders import DAYS, batch_of
from tests.unit.fresh.small import (
    LAST,
    dated_catalog,
    drawn,
    keys_of,
    state_of,
    statistics,
    undated_catalog,
    with_labels,
)

DATED, UNDATED = dated_catalog(), undated_catalog()
SLOW = dated_catalog(
    tasks=[
        {"label": "click", "kind": "click", "matures_after": "P1D"},
        {"label": "order", "kind": "conversion"},
    ]
)


def relabelled(rows, is_changed, seed):
    """The same rows, with other labels where the mask is True."""
    click = rows.column("click").to_numpy()
    other = np.random.default_rng(seed).integers(0, 2, len(click))
    return with_labels(rows, np.where(is_changed, other, click))


@given(count=st.integers(1, 80), seed=st.integers(0, 99), day=st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_no_label_of_a_rows_own_day_or_of_a_later_one_is_read(count, seed, day):
    rows = drawn(count, seed)
    days = rows.column("dt").to_numpy(zero_copy_only=False)
    changed = relabelled(rows, days >= DAYS[day], seed)
    known, leaking = (statistics(rows, state_of([r], DATED), DATED) for r in (rows, changed))
    assert np.array_equal(known[days <= DAYS[day]], leaking[days <= DAYS[day]])


@given(count=st.integers(1, 80), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_label_that_was_not_ripe_before_the_rows_day_is_not_read(count, seed):
    rows = drawn(count, seed)
    days = rows.column("dt").to_numpy(zero_copy_only=False)
    changed = relabelled(rows, days >= DAYS[1], seed)
    known, leaking = (statistics(rows, state_of([r], SLOW), SLOW) for r in (rows, changed))
    assert np.array_equal(known, leaking)  # the last day reads the first one alone


@given(count=st.integers(1, 80), seed=st.integers(0, 99), fold=st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_no_label_of_a_rows_own_fold_is_read(count, seed, fold):
    rows = drawn(count, seed)
    is_own = keys_of(rows, UNDATED).column(PERIOD).to_numpy() == fold
    changed = relabelled(rows, is_own, seed)
    states = [state_of([r], UNDATED, None) for r in (rows, changed)]
    known, leaking = (statistics(rows, state, UNDATED) for state in states)
    assert np.array_equal(known[is_own], leaking[is_own])


@given(count=st.integers(1, 80), seed=st.integers(0, 99), most=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_no_label_decides_which_keys_are_kept(count, seed, most):
    rows = drawn(count, seed)
    changed = relabelled(rows, np.ones(count, np.bool_), seed)
    for fresh in ([{"keys": ["item_id"], "most_keys": most}],
                  [{"keys": ["item_id"], "tasks": ["cvr"], "most_keys": most}]):  # fmt: skip
        catalog = dated_catalog(fresh=fresh)
        one, other = (state_of([r], catalog).timelines for r in (rows, changed))
        for name in ("s.key.item_id", "s.key.item_id+region"):
            assert np.array_equal(one[name].keys_U, other[name].keys_U)
            assert len(one[name].keys_U) <= most


def test_a_key_beyond_the_bound_reads_its_parents_rate_and_the_others_stay():
    rows = drawn(300)
    catalog = dated_catalog(fresh=[{"keys": ["item_id"], "cross_domain": False}])
    bounded = dated_catalog(fresh=[{"keys": ["item_id"], "cross_domain": False, "most_keys": 2}])
    whole, few = (statistics(rows, state_of([rows], c), c) for c in (catalog, bounded))
    items = rows.column("item_id").to_pylist()
    days = rows.column("dt").to_pylist()
    common = [item for item, _ in Counter(items).most_common(2)]
    is_kept = np.array([item in common for item in items])
    assert np.array_equal(few[is_kept], whole[is_kept])
    assert not few[~is_kept][:, 1].any(), "no rows are known of the others"
    for day in DAYS:
        rates = few[~is_kept & (np.array(days) == day)][:, 0]
        assert len(np.unique(rates)) == 1, "all read the rate of all rows"


def test_a_domain_that_appears_tonight_reads_the_numbers_of_its_items():
    rows = drawn(200)
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    new = batch_of(columns | {"region": pa.array(["a new one"] * 200)})
    state = state_of([rows], DATED)
    names = DATED.fresh_names
    found = statistics(new, state, DATED)
    for rate in ("ctr", "cvr", "ctcvr"):
        of_item, of_both = (
            found[:, names.index(f"log-odds of {key} all {rate}")]
            for key in ("item_id", "item_id+region")
        )
        assert np.array_equal(of_item, of_both)
        assert len(np.unique(of_item)) > 3
        assert not found[:, names.index(f"log rows of item_id+region all {rate}")].any()


def test_a_leak_would_be_seen():
    rows = drawn(80)
    changed = relabelled(rows, np.ones(80, np.bool_), 1)
    keys = keys_of(rows, DATED)
    key_B = keys.column("s.key.item_id").to_numpy().view(np.uint64)
    counts = [
        readable_counts(
            state_of([r], DATED), "s.key.item_id", key_B, keys.column(PERIOD).to_numpy(), 0
        )
        for r in (rows, changed)
    ]
    assert not np.array_equal(*counts)
    late = [statistics(rows, state_of([r], DATED), DATED) for r in (rows, changed)]
    assert not np.array_equal(*late)  # rows of the last day do read the days before


@given(parts=st.lists(st.integers(0, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_statistics_depend_neither_on_files_nor_on_the_rows_looked_up_together(parts, seed):
    rows = drawn(max(sum(parts), 1), seed)
    bounds = np.cumsum([0, *parts])
    pieces = [rows.slice(a, b - a) for a, b in pairwise(bounds)] or [rows]
    # Neighbours are capped by file, so that only a catalogue without a cap has this law.
    catalog = dated_catalog(fresh=({"keys": ["item_id"]}, {"keys": ["user_id", "scene"]}))
    whole = state_of(pieces, catalog)
    assert state_of(pieces[::-1], catalog).id == whole.id
    together = statistics(rows, whole, catalog)
    alone = [statistics(rows.slice(i, 1), whole, catalog) for i in range(len(rows))]
    assert np.array_equal(together, np.concatenate(alone))


def test_log_odds_and_counts_are_those_of_plain_counting():
    rows = drawn(300)
    columns = {n: rows.column(n).to_pylist() for n in ("dt", "item_id", "region", "click")}
    lines = list(zip(*columns.values(), strict=True))
    names = DATED.fresh_names
    found = statistics(rows, state_of([rows], DATED), DATED)

    def share(rows_of, parent):
        clicks = [click for *_, click in rows_of]
        return (sum(clicks) + 20 * parent) / (len(clicks) + 20), len(clicks)

    for row, (day, item, region, _) in enumerate(lines):
        if not any(d < day for d, *_ in lines):
            continue
        past = [line for line in lines if line[0] < day]
        root = (sum(p[3] for p in past) + 1) / (len(past) + 2)
        root, _ = share(past, root)
        of_item, count = share([p for p in past if p[1] == item], root)
        crossed, few = share([p for p in past if p[1:3] == (item, region)], of_item)
        for name, value in (
            ("log-odds of item_id all ctr", math.log(of_item / (1 - of_item))),
            ("log rows of item_id all ctr", math.log1p(count)),
            ("log-odds of item_id+region all ctr", math.log(crossed / (1 - crossed))),
            ("log rows of item_id+region all ctr", math.log1p(few)),
        ):
            assert found[row, names.index(name)] == pytest.approx(value, abs=1e-5)


def test_the_lift_is_that_of_plain_counting():
    catalog = dated_catalog(
        fresh=({"kind": "co_occurrence", "pair": ["item_id", "hist"], "last": 3},)
    )
    rows = drawn(300)
    lines = list(
        zip(*(rows.column(n).to_pylist() for n in ("dt", "item_id", "hist", "click")), strict=True)
    )
    lines = [(d, item, ([None] if h is None else h)[-3:], c) for d, item, h, c in lines]
    found = statistics(rows, state_of([rows], catalog), catalog)
    for row, (day, item, history, _) in enumerate(lines):
        past = [(i, h) for d, i, h, click in lines if d < day and click]
        lifts, hits = [], 0
        for other in history:
            both = sum(h.count(other) for i, h in past if i == item)
            expected = sum(i == item for i, _ in past) * sum(h.count(other) for _, h in past)
            lifts.append(math.log((both + 1) / (expected / max(len(past), 1) + 1)))
            hits += both > 0
        expected = (sum(lifts), max(lifts, default=0), sum(lifts) / max(len(lifts), 1))
        assert found[row, :3] == pytest.approx(expected, abs=1e-4)
        assert found[row, 3] == pytest.approx(hits / max(len(lifts), 1))


def test_a_row_later_than_the_state_reads_what_the_states_next_day_would():
    rows = drawn(120)
    days = rows.column("dt").to_numpy(zero_copy_only=False)
    until = rows.filter(days <= DAYS[0])
    state = state_of([until], DATED, LAST - 2)
    found = statistics(rows, state, DATED)
    shown = {}
    for row, key in enumerate(zip(*(rows.column(n).to_pylist() for n in ("item_id", "region",
                              "user_id", "scene")), map(str, rows.column("hist").to_pylist()),
                              strict=True)):  # fmt: skip
        if days[row] > DAYS[0]:
            assert np.array_equal(found[row], shown.setdefault(key, found[row]))
    assert (found[days > DAYS[0]] != 0).any()


def test_a_key_that_was_never_seen_has_its_parents_rate_and_no_rows():
    rows = drawn(200)
    days = rows.column("dt").to_numpy(zero_copy_only=False)
    others = rows.filter(np.array([item != 3 for item in rows.column("item_id").to_pylist()]))
    found = statistics(rows, state_of([others], DATED), DATED)
    names = DATED.fresh_names
    is_new = np.array([item == 3 for item in rows.column("item_id").to_pylist()])
    is_new &= days > DAYS[0]
    rates = found[is_new][:, names.index("log-odds of item_id all ctr")]
    crossed = found[is_new][:, names.index("log-odds of item_id+region all ctr")]
    assert is_new.sum() > 2
    assert len(np.unique(rates)) <= 2  # that of all rows, on each of two days
    assert np.array_equal(rates, crossed)
    assert not found[is_new][:, names.index("log rows of item_id all ctr")].any()


def test_a_row_that_is_scored_without_a_day_reads_the_newest_counts():
    rows = drawn(60)
    catalog = dated_catalog(fresh=[{"keys": ["item_id"]}])
    state = state_of([rows], catalog)
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    undated = batch_of(columns | {"dt": pa.nulls(60, pa.string())})
    tomorrow = batch_of(columns | {"dt": pa.array(["2026-10-04"] * 60)})
    keys = keys_of(undated, catalog)
    assert not statistics_of(keys, state, catalog)[:, 1].any()  # with a label: nothing
    batch = keys.combine_chunks().to_batches()[0]
    scored = pa.table(as_of_now(dict(zip(batch.schema.names, batch.columns, strict=True))))
    expected = statistics(tomorrow, state, catalog)
    assert expected[:, 1].any()
    assert np.array_equal(statistics_of(scored, state, catalog), expected)
