"""What init reads off folders, footers and rows of a log that nobody described."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline.data.describe_log import describe_log
from iak.pipeline.data.guess_features import guess_features
from iak.pipeline.data.guess_labels import guess_labels, guess_leaks, words_of
from iak.pipeline.data.log_sample import innermost_folder, partition_keys_of, read_sample
from iak.pipeline.errors import BadLog, BadRequest

DAY = 86_400
START = 1_790_812_800
"""2026-10-01 00:00 UTC."""


def shop(count=2_000, seed=0, **changes):
    """Columns of a small shop's log; a change of None takes a column out."""
    draw = np.random.default_rng(seed)
    click = draw.integers(0, 2, count)
    items = draw.integers(0, 200, count) + 7_000
    columns = {
        "event_id": np.arange(count) + 10**6,
        "event_time": START + draw.integers(0, 10 * DAY, count),
        "user_id": [f"u{i}" for i in draw.integers(0, 150, count)],
        "item_id": items,
        "history": [draw.integers(0, 200, 8) + 7_000 for _ in range(count)],
        "price": np.exp(draw.normal(2, 2.5, count)),
        "label_click": click,
        "label_order": click * draw.integers(0, 2, count),
        "scene": draw.choice(["search", "feed", "cart"], count),
    } | changes
    return pa.table({k: v for k, v in columns.items() if v is not None})


def write(root, table, *, folder="", name="part-0.parquet"):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return root


def described(root, rows=10_000):
    return describe_log(read_sample(str(root), rows=rows))


@pytest.mark.parametrize(
    ("folders", "keys"),
    [
        ([""], ()),
        (["dt=2026-10-01", "dt=2026-10-02"], ("dt",)),
        (["r=a/dt=2026-10-01", "r=b/dt=2026-10-01"], ("r", "dt")),
        (["r=a/2026/10", "r=b/2026/11"], ("r",)),
        (["r=a", "r=b", "_delta_log", ".hidden"], ("r",)),
    ],
)
def test_partition_keys_are_read_off_folder_names(folders, keys, tmp_path):
    for folder in folders:
        write(tmp_path, shop(5), folder=folder)
    assert partition_keys_of(str(tmp_path)) == keys


def test_a_folder_around_the_folder_of_events_is_looked_through(tmp_path):
    write(tmp_path, shop(5), folder="set/events/r=a")
    (tmp_path / "set" / "README.md").write_text("notes")
    assert innermost_folder(str(tmp_path)).endswith("set/events")


def test_a_folder_without_rows_is_refused_in_words(tmp_path):
    with pytest.raises(BadRequest, match="no folder"):
        read_sample(str(tmp_path / "nope"), rows=10)
    with pytest.raises(BadLog, match="no Parquet file"):
        read_sample(str(tmp_path), rows=10)


def test_a_sample_keeps_neighbours_together_and_is_about_as_long_as_wanted(tmp_path):
    write(tmp_path, shop(20_000))
    rows = read_sample(str(tmp_path), rows=2_000).rows
    steps = np.diff(rows.column("event_id").to_numpy())
    assert 1_500 <= len(rows) <= 3_000
    assert (steps == 1).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("label_click", {"label", "click"}),
        ("isClick", {"is", "click"}),
        ("user.ID", {"user", "id"}),
        ("点击", set()),
    ],
)
def test_a_name_is_split_into_words(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("rename", "kinds"),
    [
        ({}, {"label_click": "click", "label_order": "conversion"}),
        ({"label_click": "clk"}, {"clk": "click", "label_order": "conversion"}),
        ({"label_click": "is_open_y", "label_order": "buy"},
         {"is_open_y": "click", "buy": "conversion"}),
        ({"label_click": None}, {"label_order": "binary"}),
        ({"label_order": None}, {"label_click": "click"}),
        ({"label_click": "c7", "label_order": "c8"}, {"c7": "click", "c8": "conversion"}),
    ],
)  # fmt: skip
def test_labels_and_their_kinds_follow_from_names_and_implication(rename, kinds):
    table = shop()
    gone = [name for name, new in rename.items() if new is None]
    table = table.drop_columns(gone)
    table = table.rename_columns([rename.get(name) or name for name in table.column_names])
    assert {g.column: g.kind for g in guess_labels(table)} == kinds


def test_a_binary_property_of_an_item_is_no_label_where_no_name_tells():
    table = shop(label_order=None)
    items = table.column("item_id").to_numpy()
    table = table.set_column(3, "item_id", pa.array([f"i{i}" for i in items]))
    table = table.append_column("c9", pa.array(items % 2))
    table = table.rename_columns(["c4" if n == "label_click" else n for n in table.column_names])
    assert [g.column for g in guess_labels(table)] == ["c4"]


@pytest.mark.parametrize(
    ("leak", "is_one"),
    [
        (lambda click, draw: click * draw.integers(1, 900, len(click)), True),
        (lambda click, _: np.where(click == 1, "yes", "no"), True),
        (lambda click, draw: [7 if c and d else None for c, d in
                              zip(click, draw.integers(0, 2, len(click)), strict=True)], True),
        (lambda click, draw: click + draw.normal(0, 1, len(click)), False),
        (lambda click, draw: draw.integers(0, 5, len(click)), False),
    ],
)  # fmt: skip
def test_a_column_that_knows_a_label_is_suspected(leak, is_one):
    table = shop()
    click = table.column("label_click").to_numpy()
    table = table.append_column("hint", pa.array(leak(click, np.random.default_rng(3))))
    result = guess_leaks(table, guess_labels(table), skipped=["event_id", "event_time"])
    assert [g.column for g in result] == (["hint"] if is_one else [])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.arange(2_000) % 7, "categorical"),
        (np.arange(2_000) % 400, "categorical"),
        (np.random.default_rng(0).integers(0, 90, 2_000) ** 3, "numeric"),
        (np.random.default_rng(0).normal(size=2_000), "numeric"),
        ([f"w{i % 90}" for i in range(2_000)], "categorical"),
        ([f"w{i}" for i in range(2_000)], None),
        ([3] * 2_000, None),
        ([None] * 2_000, None),
        ([["a", "b"]] * 2_000, "list"),
        ([[0.5]] * 2_000, None),
        ([{"a": 1}] * 2_000, None),
    ],
)
def test_a_column_becomes_the_feature_its_values_look_like(column, kind):
    table = pa.table({"x": pa.array(column)})
    features, left_out = guess_features(table, skipped=(), uneven={})
    assert [f.kind for f in features] == ([kind] if kind else [])
    assert len(left_out) == (kind is None)


def test_a_long_tail_is_taken_by_its_logarithm_and_an_even_number_is_not():
    draw = np.random.default_rng(0)
    table = pa.table(
        {"price": np.exp(draw.normal(2, 2.5, 3_000)), "age": draw.uniform(0, 9, 3_000)}
    )
    features, _ = guess_features(table, skipped=(), uneven={})
    assert {f.column: f.log for f in features} == {"price": True, "age": False}


def test_lists_share_the_table_of_the_ids_they_hold_and_their_padding_is_seen():
    table = shop()
    padded = [[*row.as_py()[:5], 0, 0, 0] for row in table.column("history")]
    table = table.append_column("padded", pa.array(padded))
    features, _ = guess_features(table, skipped=("label_click", "label_order"), uneven={})
    by = {f.column: f for f in features}
    assert by["history"].table_of == by["padded"].table_of == "item_id"
    assert (by["history"].padding, by["padded"].padding) == (None, 0)


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("s", lambda seconds: seconds),
        ("ms", lambda seconds: seconds * 1_000),
        ("us", lambda seconds: seconds * 1_000_000),
        ("timestamp", lambda seconds: pa.array(seconds * 10**6, pa.timestamp("us", "UTC"))),
    ],
)
def test_the_time_of_the_event_is_found_with_its_unit(unit, times, tmp_path):
    seconds = shop().column("event_time").to_numpy()
    write(tmp_path, shop(event_time=times(seconds)))
    guess = described(tmp_path)
    assert (guess.time.column, guess.time.unit) == ("event_time", unit)
    assert guess.splits["test"]["days"][1] == -1


def test_the_zone_is_the_one_in_which_times_fall_on_their_folders_dates(tmp_path):
    for day in range(4):
        local_noon = START + day * DAY - 9 * 3_600 + np.arange(500) * 170
        write(tmp_path, shop(500, event_time=local_noon), folder=f"dt=2026-10-0{day + 1}")
    guess = described(tmp_path)
    assert guess.date_key.column == "dt"
    assert guess.time.time_zone == "Etc/GMT-9"


def test_windows_are_cut_where_the_rows_are(tmp_path):
    for day in range(10):
        write(tmp_path, shop(100, seed=day), folder=f"region=a/dt=2026-10-{day + 1:02d}")
    guess = described(tmp_path)
    days = {name: cut["days"] for name, cut in guess.splits.items()}
    assert days["test"] == (-1, -1)
    assert days["tune"] == days["gate"] == (-3, -2)
    assert days["pretrain"] == (0, -4)
    assert guess.domain_keys == ("scene",)  # one region names no domain


def test_a_split_column_is_followed_and_is_no_feature(tmp_path):
    parts = np.random.default_rng(0).choice(["train", "val", "test"], 2_000, p=[0.8, 0.1, 0.1])
    write(tmp_path, shop(event_time=None, fold=parts))
    guess = described(tmp_path)
    assert guess.splits["gate"]["where"] == {"fold": ("val",)}
    assert "fold" not in {f.column for f in guess.features}


def test_without_dates_and_split_columns_rows_are_cut_by_their_hash(tmp_path):
    write(tmp_path, shop(event_time=None))
    cuts = [cut["slice"] for cut in described(tmp_path).splits.values()]
    assert [low for low, _ in cuts] == [0.0, *(high for _, high in cuts[:-1])]
    assert cuts[-1][1] == 1.0


def test_a_column_that_some_files_lack_is_optional_and_one_of_two_types_left_out(tmp_path):
    table = shop(600)
    write(tmp_path, table)
    changed = table.drop_columns(["price", "scene"]).append_column("scene", pa.array(range(600)))
    write(tmp_path, changed, name="part-1.parquet")
    guess = described(tmp_path)
    by = {f.column: f for f in guess.features}
    assert by["price"].is_optional
    assert not by["item_id"].is_optional
    assert "scene" in {g.column for g in guess.left_out}


def test_a_name_that_a_file_holds_twice_is_left_alone(tmp_path):
    twice = pa.Table.from_arrays(
        [*shop().columns, pa.array([0, 1] * 1_000)], [*shop().column_names, "scene"]
    )
    write(tmp_path, twice)
    guess = described(tmp_path)
    assert "scene" not in {f.column for f in guess.features}
    assert any("two columns" in note for note in guess.notes)


def test_a_log_without_a_label_says_what_was_seen(tmp_path):
    write(tmp_path, shop(label_order=None, label_click=["0", "1"] * 1_000))
    with pytest.raises(BadLog, match=r"label_click.*as text"):
        described(tmp_path)


def test_a_folder_of_midnights_names_no_domain(tmp_path):
    for day in (1, 2, 3):
        write(tmp_path, shop(100, seed=day), folder=f"at=2026-10-0{day} 00%3A00%3A00")
    assert "at" not in described(tmp_path).domain_keys


def test_request_user_and_row_are_told_apart(tmp_path):
    requests = np.arange(2_000) // 4
    write(tmp_path, shop(request_id=requests))
    guess = described(tmp_path)
    result = (guess.row_id.column, guess.slice_by.column, guess.user.column)
    assert result == ("event_id", "request_id", "user_id")
