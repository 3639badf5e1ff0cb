"""The planted log keeps its promises: same seed same bytes, strict pasts, labels from the truth."""

import tomllib
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from iak.pipeline.data import synthetic
from iak.pipeline.data.fingerprints import files_without_checksums
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.data.synthetic import (
    BLOCK_ROWS,
    CATEGORIES,
    EVENT_SCHEMA,
    TRUTH_COLUMNS,
    Knobs,
    SynthResult,
    build_knobs,
    build_world,
    domain_coefficients,
    domain_taste,
    generate,
)
from iak.pipeline.errors import BadRequest
from iak.schemas.synth import SynthManifest, SynthSpec

DEMO = Path(__file__).parents[3] / "jobs" / "configs" / "demo" / "synth.toml"


def small(**changes: object) -> Knobs:
    """Knobs of a log that takes a blink."""
    size = {"rows": 6_000, "days": 7, "regions": 3, "skew": 3.0}
    people = {"users": 60, "items": 80, "shops": 24, "seed": 3}
    return build_knobs(SynthSpec.model_validate({**size, **people, **changes}))


def write(out: Path, knobs: Knobs) -> SynthResult:
    return generate(knobs, out, lambda _: None)


def read(out: Path, kind: str) -> pa.Table:
    """All files of one kind in the order of the manifest, with region and day as columns."""
    manifest = SynthManifest.model_validate_json((out / "manifest.json").read_bytes())
    tables = []
    for part in manifest.parts:
        place = out / kind / f"region={part.region}" / f"dt={part.dt}" / "part-00000.parquet"
        table = pq.ParquetFile(place).read()
        assert table.num_rows == part.rows
        table = table.append_column("region", pa.array([part.region] * part.rows))
        tables.append(table.append_column("dt", pa.array([str(part.dt)] * part.rows)))
    return pa.concat_tables(tables)


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


@dataclass(frozen=True)
class Log:
    """A written log: where, what came back, and its two tables."""

    out: Path
    knobs: Knobs
    result: SynthResult
    events: pa.Table
    truth: pa.Table


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Log:
    out = tmp_path_factory.mktemp("synth") / "log"
    knobs = small(rows=40_000, warm_clicks=0, fresh_share=0.2)
    result = write(out, knobs)
    return Log(out, knobs, result, read(out, "events"), read(out, "truth"))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, small())
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 * 3 * 7 + 1
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_seed_gives_another_log(tmp_path):
    assert write(tmp_path / "a", small()).digest != write(tmp_path / "b", small(seed=4)).digest


def test_a_finished_log_is_found_and_not_written_again(tmp_path):
    first = write(tmp_path / "log", small())
    stamp = (tmp_path / "log" / "manifest.json").stat().st_mtime_ns
    again = write(tmp_path / "log", small())
    assert again == replace(first, was_there=True)
    assert (tmp_path / "log" / "manifest.json").stat().st_mtime_ns == stamp


def spoil_nothing(out: Path) -> Path:
    return out


def lose_a_file(out: Path) -> Path:
    next(out.rglob("part-*.parquet")).unlink()
    return out


def only_a_stranger(out: Path) -> Path:
    (out.parent / "other").mkdir()
    (out.parent / "other" / "notes.txt").write_text("mine")
    return out.parent / "other"


@pytest.mark.parametrize(
    ("spoil", "changes"),
    [
        pytest.param(spoil_nothing, {"seed": 4}, id="another log"),
        pytest.param(lose_a_file, {}, id="a log with a lost file"),
        pytest.param(only_a_stranger, {}, id="somebody's files"),
    ],
)
def test_refuses_a_folder_that_holds_anything_else(tmp_path, spoil, changes):
    write(tmp_path / "log", small())
    place = spoil(tmp_path / "log")
    before = sorted(place.rglob("*"))
    with pytest.raises(BadRequest, match="is not empty"):
        write(place, small(**changes))
    assert sorted(place.rglob("*")) == before


def test_a_broken_run_leaves_nothing_behind(tmp_path):
    def give_up(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(small(), tmp_path / "log", give_up)
    assert list(tmp_path.iterdir()) == []


def test_columns_have_the_declared_names_and_types(log):
    assert log.events.schema.names == [*EVENT_SCHEMA.names, "region", "dt"]
    for field in EVENT_SCHEMA:
        assert log.events.schema.field(field.name).type == field.type
    assert log.events.schema.field("hist_categories").type == pa.list_(pa.string())


def test_row_and_label_counts_are_what_was_asked_and_reported(log):
    assert log.events.num_rows == log.knobs.rows == log.result.rows
    assert column(log.events, "label_click").sum() == log.result.clicks
    assert column(log.events, "label_order").sum() == log.result.orders
    assert len(np.unique(column(log.events, "event_id"))) == log.knobs.rows


def test_events_lie_inside_their_day_in_order(log):
    days = column(log.events, "event_time").astype("datetime64[s]").astype("datetime64[D]")
    assert (days.astype(str) == column(log.events, "dt")).all()
    same_part = days[1:] == days[:-1]
    assert (np.diff(column(log.events, "event_time"))[same_part] >= 0).all()


def test_an_order_implies_a_click(log):
    ordered = column(log.events, "label_order") == 1
    assert ordered.any()
    assert (column(log.events, "label_click")[ordered] == 1).all()


def test_histories_hold_clicks_strictly_before_the_event_and_only_those(log):
    """Brute force: each history is the user's last clicks before some second before the event."""
    clicks: dict[int, list[tuple[int, int]]] = {}
    rows = log.events.select(["event_time", "user_id", "item_id", "hist_item_ids", "label_click"])
    for row in rows.to_pylist():
        past = clicks.setdefault(row["user_id"], [])
        strictly = [item for at, item in past if at < row["event_time"]]
        seen = row["hist_item_ids"]
        ends = range(len(strictly), max(-1, len(strictly) - 80), -1)
        assert any(strictly[max(0, end - 20) : end] == seen for end in ends)
        if row["label_click"]:
            past.append((row["event_time"], row["item_id"]))
    assert max(len(h) for h in column(log.events, "hist_item_ids")) == 20


def test_histories_take_in_every_click_of_earlier_days(log):
    last_click: dict[int, tuple[str, int]] = {}
    checked = 0
    for row in log.events.select(
        ["dt", "user_id", "item_id", "hist_item_ids", "label_click"]
    ).to_pylist():
        day, item = last_click.get(row["user_id"], (row["dt"], 0))
        if day < row["dt"]:
            checked += 1
            assert item in row["hist_item_ids"]
        if row["label_click"]:
            last_click[row["user_id"]] = (row["dt"], row["item_id"])
    assert checked > 1_000


def test_history_categories_are_those_of_the_items(log):
    pairs = zip(column(log.events, "item_id"), column(log.events, "category"), strict=True)
    category_of = dict(pairs)
    for items, categories in zip(
        log.events["hist_item_ids"].to_pylist(),
        log.events["hist_categories"].to_pylist(),
        strict=True,
    ):
        assert [category_of[item] for item in items] == categories


def test_a_warm_log_opens_with_histories(tmp_path):
    write(tmp_path / "log", small(warm_clicks=6))
    first_day = read(tmp_path / "log", "events").slice(0, 50)
    assert np.mean([len(h) > 0 for h in first_day["hist_item_ids"].to_pylist()]) > 0.9


def test_fresh_ids_appear_only_after_the_bases_window(log):
    late = column(log.events, "dt") >= str(date(2026, 10, 1 + log.knobs.base_days))
    catalogue = build_world(log.knobs).catalogue
    for name, fresh in (("user", catalogue.user_is_fresh), ("item", catalogue.item_is_fresh)):
        is_fresh = fresh[column(log.events, f"{name}_id") - 1]
        assert is_fresh[late].any()
        assert not is_fresh[~late].any()


def test_users_live_in_one_region_and_chains_in_several(log):
    region = column(log.events, "region")

    def homes(name: str) -> list[int]:
        ids = column(log.events, name)
        return [len(set(region[ids == i])) for i in np.unique(ids)]

    assert max(homes("user_id")) == 1
    assert min(homes("shop_id")) == 1
    assert max(homes("shop_id")) == 3


def test_truth_lies_row_by_row_and_group_by_group_beside_the_events(log):
    assert log.truth.schema.names == [*TRUTH_COLUMNS, "region", "dt"]
    for path in (log.out / "events").rglob("*.parquet"):
        twin = log.out / "truth" / path.relative_to(log.out / "events")
        events, truth = pq.ParquetFile(path).metadata, pq.ParquetFile(twin).metadata
        groups = range(events.num_row_groups)
        assert events.num_row_groups == truth.num_row_groups
        assert [events.row_group(g).num_rows for g in groups] == [
            truth.row_group(g).num_rows for g in groups
        ]


def z_score(labels: np.ndarray, p: np.ndarray) -> float:
    return float((labels - p).sum() / np.sqrt((p * (1 - p)).sum()))


def test_labels_come_at_the_rate_of_the_truth(log):
    clicked = column(log.events, "label_click")
    ordered = column(log.events, "label_order")
    p_click, p_order = column(log.truth, "p_click"), column(log.truth, "p_order")
    was_clicked = clicked == 1
    assert abs(z_score(clicked, p_click)) < 4
    assert abs(z_score(ordered[was_clicked], p_order[was_clicked])) < 4
    high = p_click > np.median(p_click)
    assert abs(z_score(clicked[high], p_click[high])) < 4
    assert abs(z_score(clicked[~high], p_click[~high])) < 4


def test_rates_in_the_bases_window_are_about_those_asked_for(tmp_path):
    knobs = small(rows=40_000, users=2_000, items=800, warm_clicks=16)
    write(tmp_path / "log", knobs)
    truth = read(tmp_path / "log", "truth")
    early = column(truth, "dt") < str(date(2026, 10, 1 + knobs.base_days))
    p_click = column(truth, "p_click")[early]
    assert p_click.mean() == pytest.approx(knobs.click_rate, abs=0.015)
    assert column(truth, "p_click_global")[early].mean() == pytest.approx(p_click.mean(), abs=0.01)
    orders = np.average(column(truth, "p_order")[early], weights=p_click)
    assert orders == pytest.approx(knobs.order_rate, abs=0.02)


def pairs_that_swap(out: Path) -> float:
    """Share of row pairs of one region and day whose order the domain's part reverses."""
    truth = read(out, "truth")
    last = column(truth, "dt") == max(column(truth, "dt"))
    rng = np.random.default_rng(0)
    swaps = []
    for region in set(column(truth, "region")):
        here = last & (column(truth, "region") == region)
        full, common = (column(truth, n)[here] for n in ("p_click", "p_click_global"))
        a, b = rng.integers(len(full), size=(2, 4_000))
        swaps.append(np.mean((full[a] - full[b]) * (common[a] - common[b]) < 0))
    return float(np.mean(swaps))


def test_domains_reorder_rows_and_do_not_only_lift_them(log):
    assert pairs_that_swap(log.out) > 0.05


def test_without_difference_and_drift_there_is_no_domain(tmp_path):
    write(tmp_path / "log", small(domain_difference=0, drift=0))
    assert pairs_that_swap(tmp_path / "log") == 0.0
    truth = read(tmp_path / "log", "truth")
    np.testing.assert_allclose(column(truth, "p_click"), column(truth, "p_click_global"))


def test_standing_sums_to_nothing_over_regions_and_drift_over_the_bases_days():
    still = domain_coefficients(small(drift=0), task=0)
    assert np.abs(still.sum(axis=0)).max() < 1e-9
    assert np.abs(np.diff(still, axis=1)).max() < 1e-9
    knobs = small(domain_difference=0)
    moving = domain_coefficients(knobs, task=0)
    assert np.abs(moving[:, : knobs.base_days].sum(axis=1)).max() < 1e-9


def test_the_last_day_resembles_the_week_before_more_than_the_bases_window():
    knobs = build_knobs(SynthSpec(domain_difference=0))
    path = domain_coefficients(knobs, task=0)
    week = path[:, knobs.base_days : -2].mean(axis=1)
    last = path[:, -1]
    assert ((last - week) ** 2).mean() < 0.2 * (last**2).mean()


def test_domain_taste_unpacks_every_coefficient_once():
    knobs = small()
    width = domain_coefficients(knobs, task=0).shape[-1]
    taste = domain_taste(np.arange(width, dtype=float))
    cells = taste.daypart_category - np.arange(len(CATEGORIES))
    last = len(CATEGORIES) + cells.size
    assert cells.ravel().tolist() == list(range(len(CATEGORIES), last))
    assert [taste.price, taste.distance, *taste.scene, taste.level] == list(range(last, width))


def test_memory_holds_two_blocks_however_many_rows_a_day_has(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK_ROWS", 256)
    drawn: list[int] = []
    draw = synthetic._draw_block

    def watch(*args: object, **kwargs: object) -> synthetic.Block:
        block = draw(*args, **kwargs)
        drawn.append(len(block.time))
        return block

    monkeypatch.setattr(synthetic, "_draw_block", watch)
    groups: list[int] = []
    knobs = small(rows=30_000, days=2, regions=1)
    generate(knobs, tmp_path / "log", groups.append)
    assert max(drawn) <= 256
    assert sum(groups) == 30_000
    assert max(groups) < 512
    written = [
        pq.ParquetFile(path).metadata.row_group(g).num_rows
        for path in sorted((tmp_path / "log" / "events").rglob("*.parquet"))
        for g in range(pq.ParquetFile(path).num_row_groups)
    ]
    assert written == groups
    assert sum(rows < 256 for rows in written) <= 2


def test_blocks_share_no_second(monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK_ROWS", 100)
    windows = list(synthetic._windows(0, 20_000, np.random.default_rng(0)))
    assert sum(rows for *_, rows in windows) == 20_000
    assert max(rows for *_, rows in windows) <= 100
    assert windows[-1][1] == 86_400
    for before, after in pairwise(windows):
        assert before[0] < before[1] <= after[0]


def test_more_rows_than_seconds_can_hold_are_refused(monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK_ROWS", 1)
    with pytest.raises(BadRequest, match="more than 1 a second"):
        list(synthetic._windows(0, 200_000, np.random.default_rng(0)))


def test_row_groups_are_of_a_size_readers_like():
    assert 16_000 <= BLOCK_ROWS <= 32_000


def test_region_sizes_follow_the_skew():
    rows = build_world(small(rows=40_000, skew=8.0)).rows_RD.sum(axis=1)
    assert rows[0] / rows[-1] == pytest.approx(8.0, rel=0.02)
    assert rows.sum() == 40_000


@pytest.mark.parametrize("asked", [2, "2", ["2"], ("hangzhou", "shanghai")])
def test_regions_may_be_a_number_or_names(asked):
    assert SynthSpec.model_validate({"regions": asked}).regions == ("hangzhou", "shanghai")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"rows": 100}, "without rows", id="too few rows"),
        pytest.param({"regions": ("a", "a")}, "repeat", id="a name twice"),
        pytest.param({"items": 10}, "fewer than shops", id="empty shops"),
        pytest.param({"users": 10}, "at least 4 users", id="empty regions"),
        pytest.param({"regions": ("a b",)}, "pattern", id="a name no path holds"),
        pytest.param({"row": 10}, "Extra inputs", id="an unknown knob"),
    ],
)
def test_the_spec_refuses_what_cannot_be(changes, message):
    with pytest.raises(ValidationError, match=message):
        SynthSpec.model_validate(changes)


def test_the_demos_knobs_are_the_defaults():
    assert SynthSpec.model_validate(tomllib.loads(DEMO.read_text())) == SynthSpec()


def test_every_page_of_a_planted_log_carries_a_checksum(tmp_path):
    write(tmp_path, small())
    for kind in ("events", "truth"):
        snapshot = take_snapshot(str(tmp_path / kind), partition_keys=("region", "dt"))
        assert snapshot.files
        assert not files_without_checksums(snapshot)
