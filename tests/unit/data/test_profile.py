"""The profile of a log: counts that are known, shares that are known, and drift as it should be."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iak.pipeline.data.profile import Labels, power, profile_log
from iak.pipeline.data.splits import PER_SECOND
from iak.pipeline.data.view import open_log
from tests.builders import DAYS, FIRST_S, REGIONS, partition, small_catalog, write_file

DAY_S = 86_400
SPLITS = {"pretrain": {"days": [0, 0]}, "tune": {"days": [1, 1]}, "test": {"days": [2, 2]}}


def rows_of(day, count, *, items, price, clicks, seed=0):
    """Rows of one day, the first `clicks` of them clicked, every other click an order."""
    draw = np.random.default_rng([seed, day])
    click = (np.arange(count) < clicks).astype(np.int8)
    return pa.table(
        {
            "event_id": np.arange(count) + 10_000 * day + 100_000 * seed,
            "event_time": np.full(count, FIRST_S + day * DAY_S),
            "user_id": [f"u{i % 20}" for i in range(count)],
            "item_id": draw.choice(items, count),
            "hist": pa.array([[] for _ in range(count)], pa.list_(pa.int64())),
            "slot": pa.array(np.zeros(count), pa.int32()),
            "price": draw.normal(price, 1, count) ** 2,
            "age": pa.array(draw.integers(20, 60, count), pa.int16()),
            "scene": ["feed"] * count,
            "click": click,
            "order": (click * (np.arange(count) % 2 == 0)).astype(np.int8),
        }
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Three days of two regions: half of day two's items are new, day three's prices are others."""
    root = tmp_path_factory.mktemp("log")
    for at, region in enumerate(REGIONS):
        for day, items, price, clicks in (
            (0, [1, 2], 9, 40), (1, [1, 3], 9, 10), (2, [1, 2], 30, 5)
        ):  # fmt: skip
            rows = rows_of(day, 400, items=items, price=price, clicks=clicks + 10 * at, seed=at)
            write_file(root / "events" / partition(region, DAYS[day]) / "p.parquet", rows)
    return root


def profiled(root, *, splits=SPLITS, sample_rows=10_000, count_rows=10_000, **changes):
    catalog = small_catalog(splits=splits, **changes)
    view = open_log(catalog, str(root), wanted=list(splits))
    return profile_log(view, sample_rows=sample_rows, count_rows=count_rows, top_domains=1)


def test_rows_and_positives_by_split_domain_and_day_are_exact(log):
    profile = profiled(log)
    whole = {p.split: [(x.task, x.rows, x.positives) for x in p.labels] for p in profile.splits}
    assert whole["pretrain"] == [("ctr", 800, 90), ("cvr", 800, 45)]
    assert whole["test"] == [("ctr", 800, 20), ("cvr", 800, 11)]
    first, rest = [p for p in profile.domains if p.split == "tune"]
    assert (first.part, rest.part) == ("region=hangzhou", "(other domains)")
    assert (first.labels[0].positives, rest.labels[0].positives) == (10, 20)
    assert [(p.part, p.rows) for p in profile.days] == [(day, 800) for day in DAYS]
    assert set(profile.counted.values()) == {1.0}


@pytest.mark.parametrize("kind", ["s", "ms", "us", "a wall clock"])
def test_days_are_those_of_the_times_in_their_unit_and_time_zone(tmp_path, kind):
    unit = "s" if kind == "a wall clock" else kind
    changes = {"log__date_key": None, "log__partition_keys": [], "log__event_time_unit": unit}
    for day in range(2):
        rows = rows_of(day, 100 + day, items=[1], price=9, clicks=30)
        times = pa.array([FIRST_S + day * DAY_S + 20 * 3_600] * rows.num_rows)  # 20:00 UTC
        if kind == "a wall clock":  # 20:00 in Shanghai
            times = times.cast(pa.timestamp("s"))
        else:
            times = pc.multiply(times, int(PER_SECOND[unit]))
        index = rows.column_names.index("event_time")
        rows = rows.set_column(index, "event_time", times).append_column(
            "region", pa.array(["a"] * rows.num_rows)
        )
        write_file(tmp_path / "events" / f"{day}.parquet", rows)
    splits = {"pretrain": {"days": [0, 0]}, "tune": {"days": [1, 1]}}
    profile = profiled(tmp_path, splits=splits, log__time_zone="Asia/Shanghai", **changes)
    days = DAYS[:2] if kind == "a wall clock" else DAYS[1:3]
    assert [(p.part, p.rows) for p in profile.days] == [(days[0], 100), (days[1], 101)]


def test_a_label_that_training_masks_is_not_counted(tmp_path):
    rows = rows_of(0, 100, items=[1], price=9, clicks=30)
    click = rows.column("click").to_pylist()
    click[:4] = [None, None, 2, 1]
    column = rows.column_names.index("click")
    rows = rows.set_column(column, "click", pa.array(click, pa.int8()))
    write_file(tmp_path / "events" / partition("a", DAYS[0]) / "p.parquet", rows)
    profile = profiled(tmp_path, splits={"pretrain": {"days": [0, 0]}})
    (labels, _) = profile.splits[0].labels
    assert (labels.rows, labels.positives) == (97, 27)


def test_new_ids_are_the_share_of_occurrences_that_pretraining_never_saw(log):
    profile = profiled(log)
    share = {(one.table, one.split): one.share for one in profile.new_ids}
    assert share["item", "tune"] == pytest.approx(0.5, abs=0.05)
    assert share["item", "test"] == share["user_id", "test"] == 0
    assert profile.pretrain_ids_share == 1


def test_drift_names_the_feature_that_moved_and_no_other(log):
    words = {(d.feature, d.after): d.word for d in profiled(log).drift}
    assert words["price", "test"] == "changed"
    assert words["item", "tune"] == "changed"
    assert words["price", "tune"] == words["age", "test"] == words["region", "tune"] == "stable"


def test_beyond_the_bound_row_groups_are_counted_and_scaled_up(tmp_path):
    rows = rows_of(0, 4_000, items=[1, 2], price=9, clicks=4_000)
    write_file(tmp_path / "events" / partition("a", DAYS[0]) / "p.parquet", rows, [500] * 8)
    profile = profiled(tmp_path, splits={"pretrain": {"days": [0, 0]}}, count_rows=2_000)
    assert profile.counted == {"pretrain": 0.5}
    (whole,) = profile.splits
    assert (whole.rows, whole.labels[0].positives) == (4_000, 4_000)


@pytest.mark.parametrize(
    ("rows", "positives", "expected"),
    [
        (1_000, 5, "about 5 positives: nothing can be decided here"),
        (1_000, 990, "about 10 negatives: nothing can be decided here"),
        (0, 0, "no label: nothing can be decided here"),
        (2_000, 1_000, "AUC known to about ±0.025"),
    ],
)
def test_the_gate_s_power_is_said_in_words(rows, positives, expected):
    assert power(Labels(task="ctr", rows=rows, positives=positives)) == expected


def test_domains_that_the_gate_cannot_judge_are_counted(log):
    splits = {"pretrain": {"days": [0, 0]}, "gate": {"days": [0, 0], "slice": [0.0, 0.5]}}
    splits["pretrain"]["slice"] = [0.5, 1.0]
    assert profiled(log, splits=splits).undecided["ctr"] == {"domains": 2, "too few": 2}
