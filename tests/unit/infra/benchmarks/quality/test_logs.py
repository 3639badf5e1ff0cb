"""Test rows lie in a folder that no method is told of."""

from dataclasses import replace

import numpy as np
import pyarrow.dataset as ds
import pytest

from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.fresh.past import past_of
from iak.pipeline.stats.auc import auc
from iak.schemas.fresh import CountsSpec
from infra.benchmarks.quality.generator import true_probabilities
from infra.benchmarks.quality.logs import (
    FITTED,
    LARGE_TEST,
    TEST,
    catalog_of_parts,
    events_of,
    fingerprint_of,
    open_separated,
    refuse_shared,
)
from infra.benchmarks.quality.setup import Slice
from infra.benchmarks.specs import BenchQualitySpec

SMALL = {"planted_rows": 6_000, "planted_days": 12, "planted_users": 300, "planted_regions": 2}


@pytest.fixture(scope="module")
def separated(tmp_path_factory):
    spec = BenchQualitySpec(cache=tmp_path_factory.mktemp("cache"), **SMALL)
    return open_separated("planted", spec), spec


def ids_below(root):
    return ds.dataset(root, partitioning="hive").to_table(columns=["event_id"])[0].to_numpy()


def test_no_test_row_lies_below_the_window(separated):
    log, _ = separated
    fitted, tested = ids_below(log.window.root / "events"), ids_below(log.test.root / "events")
    assert tested.size == log.rows[TEST] > 0
    assert fitted.size == sum(log.rows.values()) - log.rows[TEST]
    assert np.intersect1d(fitted, tested).size == 0


def test_the_window_has_no_split_of_test_rows(separated):
    log, _ = separated
    assert TEST not in log.window.catalog.splits
    with pytest.raises(BadRequest, match="declares no split"):
        open_log(log.window.catalog, str(log.window.root), wanted=[TEST])


def test_every_split_has_the_rows_that_the_catalogue_gives_it(separated):
    log, spec = separated
    view = open_log(log.window.catalog, str(log.window.root), wanted=[*FITTED])
    assert {name: s.rows for name, s in view.selections.items()} | {
        TEST: log.rows[TEST]
    } == log.rows
    assert open_separated("planted", spec) == log


def test_a_dated_log_says_that_every_test_row_is_later(separated):
    log, _ = separated
    assert log.is_dated


def test_a_training_on_parts_reads_these_and_validates_on_valid(separated):
    log, _ = separated
    catalog = log.window.learning("pretrain", "tune")
    view = open_log(catalog, str(log.window.root), wanted=["pretrain", "pretrain_valid"])
    rows = {name: selection.rows for name, selection in view.selections.items()}
    expected = log.rows["pretrain"] + log.rows["tune"]
    assert rows == {"pretrain": expected, "pretrain_valid": log.rows["valid"]}


def test_the_domains_of_a_part_are_those_of_its_rows(separated):
    log, _ = separated
    domains = log.window.domains("tune")
    assert [*domains] == ["region=hangzhou", "region=shanghai"]
    rows = [
        open_log(
            log.window.learning("tune", where=domain.as_dict()),
            str(log.window.root),
            wanted=["pretrain"],
        )
        .selections["pretrain"]
        .rows
        for domain in domains.values()
    ]
    assert min(rows) > 0
    assert sum(rows) == log.rows["tune"]


def test_splits_that_share_a_row_are_refused():
    keys = {"tune": np.arange(5), "valid": np.arange(5, 9), TEST: np.arange(8, 12)}
    with pytest.raises(BadLog, match="'valid' and 'test' share 1 rows"):
        refuse_shared(keys)
    refuse_shared({"tune": np.arange(5), TEST: np.arange(5, 9)})


def test_another_setting_of_the_catalogue_or_file_is_another_log(separated):
    catalog = separated[0].window.catalog
    other = catalog.model_copy(update={"presets": {"pretrain": {"epochs": 9}}})
    prints = {
        fingerprint_of(catalog, "a"),
        fingerprint_of(other, "a"),
        fingerprint_of(catalog, "b"),
    }
    assert len(prints) == 3


def test_statistics_are_a_methods_own(separated):
    """A catalogue that declares some is the same log, and its window declares none."""
    catalog = separated[0].window.catalog
    fresh = (CountsSpec(keys=("item_id",)),)
    other = catalog.model_copy(update={"fresh": fresh})
    assert fingerprint_of(other, "a") == fingerprint_of(catalog, "a")
    assert catalog_of_parts(other, ["tune"]).fresh == ()


def test_statistics_of_earlier_days_count_the_window_alone(separated):
    """The last day that is counted is the window's, whatever the test's rows are."""
    log, _ = separated
    window = log.window.dated()
    catalog = window.catalog.model_copy(update={"fresh": (CountsSpec(keys=("item_id",)),)})
    view = open_log(catalog, str(window.root), wanted=["tune", "valid", "gate"])
    past = past_of(view, KeptContents(None))
    assert sum(s.rows for s in past.selections) == sum(log.rows.values()) - log.rows[TEST]
    assert past.last_day == str(view.dates.newest)
    tested = open_log(
        log.test.dated().catalog.model_copy(update={"fresh": catalog.fresh}),
        str(log.test.root),
        wanted=[TEST],
    )
    assert tested.dates.counted[0] > view.dates.newest


def test_a_log_whose_rows_have_no_time_is_not_dated(separated):
    log, _ = separated
    assert log.has_times
    assert log.window.catalog.log.event_time is None
    without = replace(log.window, times={})
    assert without.dated().catalog == without.catalog


def test_a_large_test_has_the_window_and_further_rows_of_the_same_days(separated):
    log, spec = separated
    spec = spec.model_copy(update={"planted_repeats": 3})
    large = open_separated(LARGE_TEST, spec)
    assert (large.window, large.fingerprint) == (log.window, log.fingerprint)
    assert large.test_fingerprint != log.test_fingerprint
    assert large.tests[0] == log.test
    assert large.rows[TEST] == 4 * log.rows[TEST]
    ids = [ids_below(window.root / "events") for window in large.tests]
    assert len(np.unique(np.concatenate(ids))) == large.rows[TEST]
    for window in large.tests:
        labels = events_of(window, TEST, ["label_click"])[0].to_numpy()
        true_p = true_probabilities(Slice(window, TEST))["ctr"]
        assert len(labels) == len(true_p) == log.rows[TEST]
        # Rows in another order would rank at random.
        assert auc(labels, true_p) > 0.65
    assert open_separated(LARGE_TEST, spec) == large
