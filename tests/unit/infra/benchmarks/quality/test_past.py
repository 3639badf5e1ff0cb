"""Statistics of earlier days are read by methods on the rows' times, and by no other method."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iak.pipeline.runs.load import load_catalog
from infra.benchmarks.quality.logs import Window
from infra.benchmarks.quality.methods import Fitted
from infra.benchmarks.quality.past import KEYS, by_day, earlier_days, earlier_days_and_pairs
from infra.benchmarks.quality.setup import MethodSetup, Slice

TIMES = {"event_time": "event_time", "event_time_unit": "s"}


def window(**changes):
    catalog = load_catalog(Path("planted"))
    log = catalog.log.model_copy(update={"date_key": None, "event_time": None})
    catalog = catalog.model_copy(update={"log": log})
    return replace(Window(name="planted", root=Path("x"), catalog=catalog, times=TIMES), **changes)


def test_the_planted_log_counts_every_key_alone_and_by_domain():
    specs = earlier_days(window().catalog)
    assert [spec.keys for spec in specs] == [*KEYS]
    for spec in specs:
        assert {"P1D", "P3D", "P7D", "all"} == {
            w if w == "all" else f"P{w.days}D" for w in spec.windows
        }
        assert [chain[-1] for chain in spec.chains(("region",))] == [
            spec.keys,
            (*spec.keys, "region"),
        ]
    pairs = earlier_days_and_pairs(window().catalog)
    assert pairs[: len(specs)] == specs
    assert [spec.pair for spec in pairs[len(specs) :]] == [("item_id", "hist_item_ids")]


@pytest.mark.parametrize("name", ["movielens", "coupons"])
def test_another_log_counts_the_keys_whose_columns_it_has_and_that_are_no_domain(name):
    catalog = load_catalog(Path(name))
    columns = {column for feature in catalog.features for column in feature.columns}
    found = [spec.keys for spec in earlier_days(catalog)]
    assert ("item_id",) in found
    for keys in found:
        assert columns.issuperset(keys)
        assert not {*keys} & {*catalog.domain.keys}


@pytest.mark.parametrize("statistics", [None, earlier_days])
def test_a_method_learns_and_predicts_on_days_and_its_setup_stays_as_it_is(statistics):
    seen = []

    def fit(setup, hyper):
        seen.append((setup.window, hyper))
        return Fitted(predict=lambda rows: seen.append((rows.window, rows.split)), parameters=3)

    setup = MethodSetup(window=window(), base=Path("b"), seed=1, scratch=Path("s"))
    test = window(root=Path("test"))
    fitted = by_day(fit, statistics)(setup, {"lr": 1.0})
    fitted.predict(Slice(test, "test"))
    assert fitted.parameters == 3
    for (dated, other), own in zip(seen, (setup.window, test), strict=True):
        assert dated.root == own.root
        assert dated.catalog.log.event_time == "event_time"
        assert dated.catalog.fresh == (statistics(own.catalog) if statistics else own.catalog.fresh)
        assert other in ({"lr": 1.0}, "test")
    assert setup.window.catalog.log.event_time is None
    assert np.all([w.catalog.log.date_key is None for w, _ in seen])
