"""Labels, their kinds, and columns that know them, by names and by values."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import guess_labels as guess_labels_module
from iak.pipeline.data.guess_labels import (
    codes_of,
    guess_labels,
    guess_leaks,
    guess_times_of_answers,
    without_one_class,
    words_of,
)
from tests.unit.data.shop import shop


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("label_click", {"label", "click"}),
        ("isClick", {"is", "click"}),
        ("user.ID", {"user", "id"}),
        ("点击", set()),
        ("Användar ID", {"id"}),
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


def label_kinds(**columns):
    return {g.column: g.kind for g in guess_labels(pa.table(columns))}


def test_only_columns_of_zero_and_one_are_labels():
    half = np.arange(400) % 2
    assert label_kinds(click=half, order=np.arange(400) % 3, buy=["few", "many"] * 200) == {
        "click": "click"
    }


def test_a_count_of_past_clicks_is_no_label_whatever_it_is_called():
    half = np.arange(400) % 2
    assert list(label_kinds(clicked_before=half[::-1].copy(), label=half)) == ["label"]


def test_a_constant_column_is_a_label_only_where_its_name_says_so():
    assert label_kinds(click=np.zeros(50), c1=np.zeros(50)) == {"click": "click"}


def test_of_two_events_of_which_one_implies_the_other_the_wider_is_the_click():
    seen = np.arange(400) % 2
    deep = seen * (np.arange(400) % 4 == 1)
    guesses = guess_labels(pa.table({"y": deep, "target": seen}))
    assert [(g.column, g.kind) for g in guesses] == [("target", "click"), ("y", "conversion")]
    assert "only where it is 1 happens y" in guesses[0].why
    assert "it is 1 only where target is 1" in guesses[1].why


def test_a_click_by_name_is_the_click_though_a_wider_event_is_implied():
    seen = np.arange(400) % 2
    assert label_kinds(label=seen, click=seen * (np.arange(400) % 4 == 1)) == {
        "click": "click",
        "label": "binary",
    }


def test_an_order_without_a_click_is_a_plain_label():
    assert label_kinds(order=np.arange(90) % 2) == {"order": "binary"}


def test_positives_are_counted_among_known_labels():
    (guess,) = guess_labels(pa.table({"click": pa.array([1, 0, None, 1, None, 0])}))
    assert (guess.positives, guess.rows) == (2, 4)


def test_columns_that_are_something_else_are_left_out():
    half = np.arange(90) % 2
    table = pa.table({"click": half, "label": half})
    assert [g.column for g in guess_labels(table, skipped=["click"])] == ["label"]


def test_the_serving_policys_probability_is_a_leak_by_its_name():
    draw = np.random.default_rng(0)
    table = pa.table({"click": np.arange(400) % 2, "propensity_score": draw.random(400)})
    (leak,) = guess_leaks(table, guess_labels(table))
    assert "serving policy" in leak.why


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_id_that_only_positives_have_is_a_leak(nothing):
    click = np.arange(900) % 3 == 0
    orders = [f"o{row}" if is_one else nothing for row, is_one in enumerate(click)]
    some = [f"o{row}" if row % 2 else nothing for row in range(900)]
    table = pa.table({"click": click.astype(int), "order_no": orders, "other_no": some})
    (leak,) = guess_leaks(table, guess_labels(table))
    assert (leak.column, leak.why) == ("order_no", "whether it has a value says click")


def test_too_few_positives_say_nothing_of_a_leak():
    click = np.zeros(400)
    click[:20] = 1
    table = pa.table({"click": click, "copy": click.astype(str)})
    assert guess_leaks(table, guess_labels(table)) == ()


@given(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=30), st.data())
def test_codes_tell_values_apart_and_null_comes_last(values, data):
    cut = data.draw(st.integers(0, len(values)))
    column = pa.chunked_array([values[:cut], values[cut:]], pa.string())
    codes, count = codes_of(column)
    assert len(set(zip(codes.tolist(), values, strict=True))) == len(set(values))
    assert all(
        (code == count - 1) == (value is None) for code, value in zip(codes, values, strict=True)
    )


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=40).filter(
        lambda rows: len({y for y, _ in rows}) == 2
    )
)
def test_the_auc_counts_pairs_and_halves_ties(rows):
    y, scores = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    pairs = [(a > b) + (a == b) / 2 for a in scores[y == 1] for b in scores[y == 0]]
    assert guess_labels_module.auc_of_scores(y, scores) == pytest.approx(np.mean(pairs))


def test_a_property_of_an_item_is_a_label_only_where_it_is_asked_for():
    items = np.arange(2_000) % 40
    table = pa.table({"item_id": items, "is_open": items % 2})
    assert guess_labels(table, is_named=False, properties=False) == ()
    assert [g.column for g in guess_labels(table, is_named=False)] == ["is_open"]


def test_what_happens_only_after_an_answer_leaks_it_however_rare_it_is():
    draw = np.random.default_rng(0)
    click = draw.integers(0, 2, 9_000)
    late = click * (draw.random(9_000) < 0.04)
    table = pa.table(
        {
            "click": click,
            "opened_profile": late,
            "stayed": late * draw.random(9_000),
            "order_no": pa.array(range(9_000), mask=late == 0),
            "is_new": (draw.random(9_000) < 0.04).astype(int),
        }
    )
    leaks = {g.column: g.why for g in guess_leaks(table, guess_labels(table, is_named=True))}
    assert leaks.keys() == {"opened_profile", "stayed", "order_no"}
    assert leaks["opened_profile"] == "click is 1 wherever it is not 0"
    assert leaks["order_no"] == "click is 1 wherever it is not null"


def test_an_answer_of_one_class_is_no_task_where_others_are():
    rows = np.arange(3_000)
    table = pa.table({"click": rows % 2, "like": 1 + 0 * rows, "hate": 0 * rows})
    labels = guess_labels(table, is_named=True)
    kept, constant = without_one_class(labels)
    assert [g.column for g in kept] == ["click"]
    assert {g.column: g.why for g in constant} == {
        "like": "an answer that every sampled row has",
        "hate": "an answer that no sampled row has",
    }
    rest = [g for g in labels if g.column != "click"]
    assert without_one_class(rest) == (tuple(rest), ())


def test_the_time_of_an_answer_that_is_null_elsewhere_is_a_label():
    rows = np.arange(2_000)
    seconds = rows + 1_790_812_800

    def where(mask):
        return pa.array(seconds, mask=~mask)

    table = pa.table(
        {
            "click_time": where(rows % 2 == 0),
            "order_time": where(rows % 4 == 0),
            "install_at": seconds,
            "signup_date": where(rows % 3 == 0),
            "last_click_ts": where(rows % 3 == 0),
        }
    )
    guesses = {g.column: g for g in guess_times_of_answers(table)}
    assert {name: g.kind for name, g in guesses.items()} == {
        "click_time": "click",
        "order_time": "conversion",
    }
    assert guesses["order_time"].task.has_value
    assert guesses["order_time"].of(table).tolist() == (rows % 4 == 0).astype(float).tolist()


@pytest.mark.parametrize(
    ("columns", "labels", "leaks"),
    [
        (("like", "click_on_author", "open_comments"), ("like", "click_on_author", "open_comments"),
         ()),
        (("skip_2", "not_skipped"), ("skip_2",), ("not_skipped",)),
        (("is_read", "last_read"), ("is_read",), ()),
        (("visit", "exposure"), ("visit",), ("exposure",)),
    ],
)  # fmt: skip
def test_other_answers_by_name_and_their_opposites(columns, labels, leaks):
    draw = np.random.default_rng(0)
    rows = {name: draw.integers(0, 2, 2_000) for name in columns}
    if "not_skipped" in rows:
        rows["not_skipped"] = 1 - rows["skip_2"]
    table = pa.table(rows)
    guesses = guess_labels(table, is_named=True)
    assert tuple(g.column for g in guesses) == labels
    assert tuple(g.column for g in guess_leaks(table, guesses)) == leaks
    assert "click" not in {g.kind for g in guesses if len(labels) > 1}


@pytest.mark.parametrize("name", ["is_organic", "premium", "is.test"])
def test_what_is_known_of_a_row_is_no_answer_of_a_user(name):
    table = pa.table({name: np.random.default_rng(0).integers(0, 2, 900)})
    assert guess_labels(table, is_named=False) == ()


def test_minus_one_beside_an_answer_is_none():
    label = np.arange(900) % 3 - 1
    (guess,) = guess_labels(pa.table({"label": label}), is_named=True)
    assert (guess.missing, guess.rows, guess.positives) == ((-1,), 600, 300)


@pytest.mark.parametrize("name", ["timespent", "time_spent", "activeTime"])
def test_how_long_something_was_read_is_a_leak_beside_a_label(name):
    draw = np.random.default_rng(0)
    rows = pa.table({"like": np.arange(900) % 2, name: draw.integers(0, 90, 900)})
    assert [g.column for g in guess_leaks(rows, guess_labels(rows, is_named=True))] == [name]


def test_a_column_that_no_positive_has_is_a_leak():
    rows = np.arange(2_000)
    length = pa.array(rows % 80, mask=rows % 10 < 2)
    table = pa.table({"like": (rows % 10 == 0).astype(int), "length": length})
    (leak,) = guess_leaks(table, guess_labels(table, is_named=True))
    assert (leak.column, leak.why) == ("length", "it has no value where like is 1")


def test_a_text_of_many_values_that_says_the_label_is_a_leak():
    draw = np.random.default_rng(0)
    click = draw.integers(0, 2, 9_000)
    hotels, words = draw.integers(0, 300, 9_000), draw.integers(0, 300, 9_000)
    said = [f"h{h}" if c else f"w{w}" for c, h, w in zip(click, hotels, words, strict=True)]
    table = pa.table({"click": click, "reference": said, "hotel": [f"h{h}" for h in hotels]})
    leaks = guess_leaks(table, guess_labels(table, is_named=True))
    assert [leak.column for leak in leaks] == ["reference"]


def test_what_turns_something_down_is_no_click():
    skip = np.random.default_rng(0).random(2_000)
    table = pa.table({f"skip_{n}": (skip < 0.2 * n).astype(int) for n in (1, 2, 3)})
    assert {g.kind for g in guess_labels(table, is_named=True)} == {"binary"}
    assert [g.kind for g in guess_labels(table.select(["skip_2"]), is_named=True)] == ["binary"]
