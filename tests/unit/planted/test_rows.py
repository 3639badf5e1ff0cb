"""Rows of a planted log: strict pasts, labels at the rate of the truth, blocks apart in time."""

from datetime import date
from itertools import pairwise

import numpy as np
import pytest

from iak.pipeline.errors import BadRequest
from iak.pipeline.planted import rows
from tests.unit.planted.planted_log import column, read, small, write


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
    events = log.events.select(["event_time", "user_id", "item_id", "hist_item_ids", "label_click"])
    for row in events.to_pylist():
        past = clicks.setdefault(row["user_id"], [])
        strictly = [item for at, item in past if at < row["event_time"]]
        ids = row["hist_item_ids"]
        ends = range(len(strictly), max(-1, len(strictly) - 80), -1)
        assert any(strictly[max(0, end - 20) : end] == ids for end in ends)
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


def test_blocks_share_no_second(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_ROWS", 100)
    windows = list(rows.windows(0, 20_000, np.random.default_rng(0)))
    assert sum(count for *_, count in windows) == 20_000
    assert max(count for *_, count in windows) <= 100
    assert windows[-1][1] == 86_400
    for before, after in pairwise(windows):
        assert before[0] < before[1] <= after[0]


def test_more_rows_than_seconds_can_hold_are_refused(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_ROWS", 1)
    with pytest.raises(BadRequest, match="more than 1 a second"):
        list(rows.windows(0, 200_000, np.random.default_rng(0)))
