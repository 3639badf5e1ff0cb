"""The wide log: what its knobs promise, as laws of its rows."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.bench import wide_log
from iak.pipeline.bench.wide_log import (
    HISTORIES,
    LONGEST_HISTORY,
    Truth,
    WideKnobs,
    domain_shares,
    ensure_wide_log,
    first_drifting_day,
    joined_domains,
    table_sizes,
    wide_catalog,
)
from iak.pipeline.data import contract
from iak.pipeline.data.view import open_log

KNOBS = WideKnobs(rows=6_000, days=12, table_rows=5_000, domains=(1, 5, 50))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return ensure_wide_log(KNOBS, tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def rows(root):
    return ds.dataset(root / "events", partitioning="hive").to_table()


@given(rows=st.integers(1_040, 10**8))
def test_tables_have_together_the_rows_that_were_asked_for(rows):
    sizes = table_sizes(rows)
    assert len(sizes) == 26
    assert sum(sizes.values()) == rows
    assert min(sizes.values()) >= 20


def test_too_few_rows_for_26_tables_are_refused():
    with pytest.raises(ValueError, match="ask for at least"):
        table_sizes(400)


@given(count=st.integers(15, 3_000))
def test_the_largest_domain_is_100_times_the_median(count):
    shares = domain_shares(count)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / np.median(shares) == pytest.approx(100, rel=0.05)


@settings(deadline=None)
@given(fine=st.integers(200, 2_000), coarse=st.integers(1, 40))
def test_joined_domains_are_as_large_as_they_should_be(fine, coarse):
    joined = joined_domains(fine, coarse)
    sizes = np.bincount(joined, weights=domain_shares(fine), minlength=coarse)
    assert len(sizes) == coarse
    assert np.abs(sizes - domain_shares(coarse)).max() <= domain_shares(fine)[0]


def test_ids_are_in_their_tables_and_reach_all_over_them(rows):
    sizes = table_sizes(KNOBS.table_rows)
    for name, size in sizes.items():
        ids = rows.column(name).to_numpy()
        assert ids.min() >= 0
        assert ids.max() < size - 2
    assert len(np.unique(rows.column("c25").to_numpy())) == sizes["c25"] - 2
    assert (rows.column("c00").to_numpy() < sizes["c00"] // 2).mean() == pytest.approx(0.5, abs=0.2)


def test_few_ids_are_most_of_the_rows(rows):
    _, counts = np.unique(rows.column("c00").to_numpy(), return_counts=True)
    assert np.sort(counts)[::-1][: len(counts) // 10].sum() > 0.3 * len(rows)


def test_histories_share_a_table_and_are_about_20_long(rows):
    sizes = table_sizes(KNOBS.table_rows)
    for history, table in HISTORIES.items():
        lists = rows.column(history).combine_chunks()
        lengths = lists.value_lengths().to_numpy()
        assert lengths.mean() == pytest.approx(20, abs=0.5)
        assert lengths.min() >= 1
        assert lengths.max() <= LONGEST_HISTORY
        assert lists.flatten().to_numpy().max() < sizes[table] - 2


def test_an_order_needs_a_click_and_both_are_rare_but_there(rows):
    click, order = (rows.column(n).to_numpy().astype(bool) for n in ("click", "order"))
    assert not (order & ~click).any()
    assert 0.05 < click.mean() < 0.5
    assert 0.005 < order.mean() < click.mean()


def test_every_finer_domain_lies_in_one_coarser(rows):
    pairs = set(
        zip(rows.column("domain_50").to_pylist(), rows.column("domain_5").to_pylist(), strict=True)
    )
    assert len(pairs) == len({fine for fine, _ in pairs}) > 40


def test_the_log_keeps_the_contract_and_no_split_is_empty(root, rows):
    assert len(rows) == KNOBS.rows
    catalog = wide_catalog(KNOBS, domains=50)
    view = open_log(catalog, str(root), wanted=sorted(catalog.splits))
    assert not view.snapshot.unreadable
    for split in catalog.splits:
        for raw, _ in view.raw_rows(split):
            assert contract.inspect(raw, catalog).quarantined is None
            assert not contract.out_of_range(raw, catalog)


def test_a_night_ago_the_window_was_a_day_earlier_and_still_after_the_bases(root):
    now = open_log(wide_catalog(KNOBS, domains=5), str(root), wanted=["pretrain", "tune"])
    before = open_log(
        wide_catalog(KNOBS, domains=5, nights_ago=1), str(root), wanted=["pretrain", "tune"]
    )
    assert (now.selections["tune"].split.last - before.selections["tune"].split.last).days == 1
    assert before.selections["pretrain"].split.last < before.selections["tune"].split.first
    assert before.selections["pretrain"].rows == now.selections["pretrain"].rows


def test_only_a_later_day_drifts():
    truth = Truth(KNOBS)
    domain, category = np.arange(50, dtype=np.int32), np.arange(50, dtype=np.int32)
    first = first_drifting_day(KNOBS.days)
    before = [truth.own_part(day, domain, category) for day in range(first)]
    assert all(np.array_equal(part, before[0]) for part in before)
    assert not np.array_equal(truth.own_part(first, domain, category), before[0])
    window = open_days(wide_catalog(KNOBS, domains=5, nights_ago=1))
    assert window["pretrain"][1] < first <= window["tune"][0]


def open_days(catalog):
    """The splits' days, counted from the first."""
    return {
        name: tuple(day % KNOBS.days for day in split.days)
        for name, split in catalog.splits.items()
    }


def test_the_same_knobs_are_the_same_rows_and_another_seed_is_not(root, tmp_path):
    again = ensure_wide_log(KNOBS, tmp_path)
    assert again.name == root.name
    assert digest(again) == digest(root)
    other = ensure_wide_log(dataclasses.replace(KNOBS, seed=1), tmp_path)
    assert other.name != root.name
    assert digest(other) != digest(root)


def digest(place):
    return [path.read_bytes() for path in sorted(Path(place).rglob("*.parquet"))]


def test_a_log_that_was_not_finished_is_not_there(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(wide_log, "_write", full_disk)
        with pytest.raises(OSError, match="no space"):
            ensure_wide_log(KNOBS, tmp_path)
    assert not list(tmp_path.glob("wide-*"))
    assert len(list(ensure_wide_log(KNOBS, tmp_path).rglob("*.parquet"))) == KNOBS.days
