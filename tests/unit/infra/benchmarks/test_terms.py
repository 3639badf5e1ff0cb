"""`python -m infra.benchmarks terms`: how recent days are altered, and what an interval shows."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline.runs.load import load_catalog
from iak.schemas.predictions import IAK
from infra.benchmarks.specs import BenchTermsSpec
from infra.benchmarks.terms import (
    SHIPPED,
    TASK,
    VARIANTS,
    Condition,
    altered_log,
    as_they_are,
    catalog_of,
    conditions_of,
    interval_of,
    lines_of,
    noisy,
    poisoned,
    shown_of,
    thin,
)

DAYS = 10


def rows_of(count=400, seed=0):
    chance = np.random.default_rng(seed)
    clicks = (chance.random(count) < 0.3).astype(np.int8)
    orders = clicks * (chance.random(count) < 0.3)
    return pa.table(
        {
            "event_id": np.arange(count),
            "label_click": pa.array(clicks, pa.int8()),
            "label_order": pa.array(orders, pa.int8()),
        }
    )


def pairs(rows):
    """Return both labels of each row."""
    return np.stack([rows.column(n).to_numpy() for n in ("label_click", "label_order")])


def test_traded_labels_keep_both_rates_and_every_other_column():
    before = rows_of()
    after = noisy(0.5)(before, 0, np.random.default_rng(1))
    assert after.schema == before.schema
    assert after.column("event_id") == before.column("event_id")
    assert sorted(map(tuple, pairs(after).T)) == sorted(map(tuple, pairs(before).T))
    moved = (pairs(after) != pairs(before)).any(axis=0).mean()
    assert 0.05 < moved < 0.5  # a trade between equal labels changes nothing


def test_no_order_is_without_a_click_after_a_trade():
    click, order = pairs(noisy(1.0)(rows_of(), 0, np.random.default_rng(1)))
    assert (order <= click).all()


def test_thin_days_keep_rows_of_their_own_in_their_order():
    kept = thin(30)(rows_of(), 0, np.random.default_rng(1)).column("event_id").to_pylist()
    assert len(kept) == 30
    assert kept == sorted(set(kept))
    assert len(thin(30)(rows_of(20), 0, np.random.default_rng(1))) == 20


def test_poison_adds_clicks_on_one_day_alone():
    before = rows_of()
    poison = poisoned(0.4, day=2)
    assert poison(before, 1, np.random.default_rng(1)) is before
    after = poison(before, 2, np.random.default_rng(1))
    gained = pairs(after)[0] - pairs(before)[0]
    assert set(gained.tolist()) == {0, 1}
    assert 0.2 < gained[pairs(before)[0] == 0].mean() < 0.6
    assert after.column("label_order") == before.column("label_order")


@pytest.fixture
def log(tmp_path):
    """A log of two regions and ten days."""
    for region in "ab":
        for day in range(DAYS):
            folder = tmp_path / "log/events" / f"region={region}" / f"dt=2026-10-{day + 1:02}"
            folder.mkdir(parents=True)
            pq.write_table(rows_of(seed=day), folder / "part-00000.parquet")
    return tmp_path / "log"


def test_only_recent_days_are_altered_and_the_log_itself_stays(log):
    files = sorted(path.relative_to(log) for path in log.rglob("*.parquet"))
    before = {path: (log / path).read_bytes() for path in files}
    altered = altered_log(log, Condition(alter=thin(7)), DAYS, 3)
    assert {path: (log / path).read_bytes() for path in files} == before
    assert sorted(path.relative_to(altered) for path in altered.rglob("*.parquet")) == files
    rows = {path.parts[-2]: pq.read_metadata(altered / path).num_rows for path in files}
    assert {day: rows for day, rows in rows.items() if rows == 7}.keys() == {
        f"dt=2026-10-{day:02}" for day in range(3, 9)
    }


def test_a_condition_sets_the_days_and_the_least_rows_of_a_domain(tmp_path):
    condition = Condition(alter=as_they_are, last_day=-6, min_rows=150)
    catalog = load_catalog(catalog_of(tmp_path, condition))
    assert {name: catalog.splits[name].days for name in ("tune", "valid", "gate", "test")} == {
        "tune": (-8, -6),
        "valid": (-8, -6),
        "gate": (-8, -6),
        "test": (-2, -1),
    }
    assert catalog.splits["pretrain"].days == (0, -9)
    assert catalog.domain.min_rows == 150


def test_conditions_are_named_by_their_settings():
    names = [*conditions_of(BenchTermsSpec(noise=0.25, thin_rows=10, poison=0.5))]
    assert names == [
        "as they are",
        "25% of labels traded",
        "60 rows a domain",
        "one day with 50% forged clicks",
        "the last three days missing",
    ]


def test_an_interval_over_seeds_is_students():
    low, high = interval_of([0.01, 0.02, 0.03])
    assert (low + high) / 2 == pytest.approx(0.02)
    assert (high - low) / 2 == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    assert interval_of([0.01]) == (None, None)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (-0.2, -0.1, "shipped is better"),
        (-0.2, 0.1, "no difference shown"),
        (0.1, 0.2, "shipped is worse"),
        (None, None, "one seed shows nothing"),
    ],
)
def test_what_an_interval_shows(low, high, shown):
    assert shown_of(low, high) == shown


def evaluation(share, *, harm=False):
    def row(domain, delta, high):
        return SimpleNamespace(
            method=IAK,
            task=TASK,
            domain=domain,
            delta_auc=delta,
            delta_auc_high=high,
            calibration=1.1,
        )

    rows = [row("all", 0.02, 0.03), row("pooled", 0.02, 0.03), row("region=a", 0.01, 0.02)]
    rows.append(row("region=b", -0.01, -0.005 if harm else 0.005))
    return SimpleNamespace(rows=rows, result=SimpleNamespace(reachable_share=share))


def test_each_seed_is_compared_with_the_shipped_kernels_of_its_own():
    evaluated = {
        ("c", SHIPPED): [evaluation(0.5), evaluation(0.7)],
        ("c", "without the rate"): [evaluation(0.4, harm=True), evaluation(0.61)],
    }
    shipped, other = lines_of(evaluated)
    assert (shipped.minus_shipped, shipped.low, shipped.shown) == (0.0, None, "")
    assert other.minus_shipped == pytest.approx(-0.095)
    assert other.low < -0.095 < other.high  # 0.1 and 0.09
    assert (other.harmed, other.domains) == (1, 4)
    assert other.delta_auc == pytest.approx(0.02)


def test_every_variant_but_the_shipped_differs_from_it():
    assert VARIANTS[SHIPPED] == {}
    assert all(settings for name, settings in VARIANTS.items() if name != SHIPPED)
