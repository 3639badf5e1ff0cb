"""A column becomes the feature that its values look like, or is left out with the reason."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.guess_features import guess_features
from tests.unit.data.shop import shop


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


def guessed(uneven=None, **columns):
    """The one feature of a table, or the reason why its column is left out."""
    features, left_out = guess_features(pa.table(columns), skipped=(), uneven=uneven or {})
    (guess,) = (*features, *left_out)
    return guess


COUNT = 2_000


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("price", np.arange(COUNT) % 40, "numeric"),
        ("price_id", np.arange(COUNT) % 40, "categorical"),
        ("shop", np.arange(COUNT) % 60 * 1_000, "categorical"),
        ("x", np.arange(COUNT) % 60 * 1_000, "numeric"),
        ("x", np.arange(COUNT) % 60 * 10**9, "categorical"),
        ("x", np.arange(COUNT) % 300, "categorical"),
        ("is_free", np.arange(COUNT) % 2 == 0, "categorical"),
        ("num_seats", np.arange(COUNT) % 2, "categorical"),
    ],
    ids=["a number by name", "an id by name", "an id word", "gaps", "hashes", "dense", "truths",
         "two values of a number"],
)  # fmt: skip
def test_whole_numbers_are_ids_or_numbers_by_name_and_then_by_spread(name, values, kind):
    assert guessed(**{name: values}).kind == kind


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["some words of a review " * 4, "more words of a review " * 4] * 9, "free text, 92 char"),
        ([f"w{i}" for i in range(COUNT)], "nearly every row has its own value"),
        ([[]] * 9, "its lists are all empty"),
        ([[True], [False]] * 9, "a list of bools; a list feature reads ids"),
        ([None] * 9, "it is null in every sampled row"),
        ([5.0] * 9 + [None], "it never varies"),
        (["same"] * 9, "it has one value alone, 'same'"),
    ],
)  # fmt: skip
def test_a_column_that_no_feature_could_use_is_left_out_with_the_reason(values, why):
    column = pa.array(values, pa.list_(pa.int64())) if values[0] == [] else pa.array(values)
    assert why in guessed(x=column).why


def test_a_value_that_is_there_or_not_is_a_feature():
    assert guessed(x=["yes"] * 9 + [None]).kind == "categorical"


@pytest.mark.parametrize(
    ("rows", "padding"),
    [
        ([[5, 6, 0], [7, 0, 0], [1, 2, 3]] * 9, 0),
        ([[0, 5, 6], [0, 0, 7], [1, 2, 3]] * 9, 0),
        ([["a", "<pad>"], ["b", "c"]] * 9, "<pad>"),
        ([[5, 6, 9], [7, 9, 9], [1, 2, 3]] * 9, None),
        ([[5, 0], [7, 0, 0]] * 9, None),
        ([[0], [0]] * 9, None),
    ],
    ids=["at the end", "at the start", "text", "a usual id", "other lengths", "single values"],
)
def test_padding_is_seen_where_all_lists_have_one_length(rows, padding):
    assert guessed(x=rows).padding == padding


def test_a_list_of_other_ids_has_a_table_of_its_own():
    columns = {
        "item_id": np.arange(COUNT) % 200,
        "tags": [[int(i) % 50 + 900] for i in range(COUNT)],
    }
    features, _ = guess_features(pa.table(columns), skipped=(), uneven={})
    assert {f.column: f.table_of for f in features}["tags"] is None


def test_a_table_of_a_column_that_is_no_feature_is_not_shared():
    columns = {
        "item_id": np.arange(COUNT) % 200,
        "hist": [[int(i) % 200] for i in range(COUNT)],
    }
    features, _ = guess_features(pa.table(columns), skipped=["item_id"], uneven={})
    assert [(f.column, f.table_of) for f in features] == [("hist", None)]


@pytest.mark.parametrize(
    ("difference", "is_feature"),
    [("3 of 9 files lack it", True), ("its type differs over files: text in 3", False)],
)
def test_a_column_that_files_lack_is_optional_and_one_of_two_types_left_out(difference, is_feature):
    guess = guessed({"x": difference}, x=["a", "b", "c"] * 9)
    assert difference in guess.why
    assert getattr(guess, "is_optional", False) == is_feature


def texts(lists, separator="|"):
    return pa.array([separator.join(map(str, own)) for own in lists])


def test_ids_in_one_text_are_a_list_that_shares_the_table_of_its_ids():
    table = shop()
    histories = [row.as_py()[: 1 + n % 8] for n, row in enumerate(table.column("history"))]
    table = table.append_column("clicked", texts(histories, ","))
    features, _ = guess_features(table, skipped=("label_click", "label_order"), uneven={})
    clicked = next(f for f in features if f.column == "clicked")
    assert (clicked.kind, clicked.separator, clicked.whole) == ("list", ",", True)
    assert clicked.table_of == "item_id"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (texts([["war", "love"][: 1 + n % 2] for n in range(COUNT)]), "list"),
        (texts([["N7", "N12", "N3"][: 1 + n % 3] for n in range(COUNT)], " "), "list"),
        (texts([["red", ("big", "small")[n % 2]] for n in range(COUNT)]), "categorical"),
        (texts([["a", "good", "day"][: 1 + n % 3] for n in range(COUNT)], " "), "categorical"),
        (texts([[f"2026-10-{1 + n % 9:02d}", "10:00"] for n in range(COUNT)], " "), "categorical"),
    ],
    ids=["genres", "numbered ids", "a cross of two", "words", "times"],
)
def test_a_text_is_a_list_where_its_parts_are_ids(values, kind):
    assert guessed(x=values).kind == kind


def test_small_numbers_share_no_table_with_any_others():
    table = pa.table(
        {
            "tab": np.arange(COUNT) % 8,
            "author": np.arange(COUNT) % 267,
            "tags": texts([[n % 30, n % 7][: 1 + n % 2] for n in range(COUNT)], ","),
        }
    )
    features, _ = guess_features(table, skipped=(), uneven={})
    assert {f.column: f.table_of for f in features}["tags"] is None


def test_a_long_hash_is_an_id_and_no_free_text():
    hashes = pa.table({"customer_id": [f"{row % 40:064x}" for row in range(400)]})
    (feature,), _ = guess_features(hashes, skipped=(), uneven={})
    assert (feature.column, feature.kind) == ("customer_id", "categorical")


def test_few_words_among_fractions_say_that_a_number_is_missing_and_many_do_not():
    prices = [f"{0.5 + row % 700:.2f}" for row in range(2_000)]
    for step, is_number in ((20, True), (5, False)):
        texts = ["n/a" if row % step == 0 else price for row, price in enumerate(prices)]
        (feature,), _ = guess_features(pa.table({"c7": texts}), skipped=(), uneven={})
        assert feature.in_text == is_number


@pytest.mark.parametrize("name", ["video_duration", "c7"])
def test_whole_numbers_that_hardly_repeat_are_a_number_where_they_are_named_so(name):
    table = pa.table({name: np.arange(2_000) * 977 % 60_013})
    features, left_out = guess_features(table, skipped=(), uneven={})
    assert [f.kind for f in features] == (["numeric"] if name == "video_duration" else [])
    assert len(features) + len(left_out) == 1


@pytest.mark.parametrize(
    ("name", "write", "in_text"),
    [
        ("c7", "{:.2f}".format, True),
        ("c7", "{:.0f}".format, False),  # digits alone are ids
        ("price", "{:.0f}".format, True),
        ("price", "{:.0f} EUR".format, False),
        ("app_version", "{:.1f}".format, False),
        ("user_pseudo_id", "{:.2f}".format, False),
        ("item_price_id", "{:.0f}".format, False),
    ],
)
def test_numbers_in_text_are_numbers_where_they_have_fractions_or_a_name(name, write, in_text):
    draw = np.random.default_rng(0)
    texts = [write(number) for number in draw.gamma(9, 3, 2_000)]
    texts[::50], texts[1] = [None] * 40, ""
    (feature,), _ = guess_features(pa.table({name: texts}), skipped=(), uneven={})
    assert (feature.kind == "numeric", feature.in_text) == (in_text, in_text)
    assert feature.why.endswith(", written as text") == in_text


def test_numbered_columns_share_the_table_of_the_ids_they_hold():
    draw = np.random.default_rng(0)
    columns = {f"hist_{k}": draw.integers(0, 90, COUNT) for k in range(1, 4)}
    codes = {f"C{k}": draw.integers(0, 4, COUNT) for k in range(1, 4)}
    items = {"item_id": draw.integers(1, 90, COUNT), "slot": draw.integers(0, 4, COUNT)}
    features, _ = guess_features(pa.table(items | columns | codes), skipped=(), uneven={})
    shared = {f.column for f in features if f.table_of == "item_id"}
    assert shared == set(columns)
    assert all(f.table_of is None for f in features if f.column not in columns)


def test_two_columns_with_numbers_are_no_list():
    ids = np.arange(COUNT) % 90
    features, _ = guess_features(
        pa.table({"item_id": ids, "near_1": ids, "near_2": ids}), skipped=(), uneven={}
    )
    assert {f.table_of for f in features} == {None}


def test_times_in_text_beside_the_events_are_left_out():
    days = np.datetime64("2026-10-01") + np.arange(COUNT) % 90
    guess = guessed(check_in=days.astype(str))
    assert guess.why == "times in text; write the days between it and the event as a number"


@pytest.mark.parametrize("name", ["cat7", "page2", "category_id3"])
def test_a_number_at_the_end_of_a_name_hides_no_word(name):
    assert guessed(**{name: np.arange(COUNT) % 90 * 971 + 138_937}).kind == "categorical"


def test_what_stands_for_no_id_says_nothing_of_the_others():
    values = np.where(np.arange(COUNT) % 2, -1, 100_000 + np.arange(COUNT) % 160)
    assert guessed(C20=values).kind == "categorical"
    assert guessed(C20=np.arange(COUNT) % 160 * 971).kind == "numeric"


@pytest.mark.parametrize("name", ["device_size", "life_duration", "list_time"])
def test_a_number_owns_no_ids_of_a_list(name):
    draw = np.random.default_rng(0)
    own = draw.integers(1_000, 1_900, 2_000)
    lists = [draw.integers(1_000, 1_900, 5).tolist() for _ in range(2_000)]
    features, _ = guess_features(pa.table({name: own, "clicked": lists}), skipped=[], uneven={})
    assert [f.table_of for f in features if f.kind == "list"] == [None]
    features, _ = guess_features(pa.table({"ad_id": own, "clicked": lists}), skipped=[], uneven={})
    assert [f.table_of for f in features if f.kind == "list"] == ["ad_id"]


@pytest.mark.parametrize(
    ("show", "separator", "whole"),
    [
        (lambda ids: str(ids.tolist()), ",", True),
        (lambda ids: str([f"B0{i}X" for i in ids]), ",", False),
        (lambda ids: str(np.array([f"B0{i}X" for i in ids])), " ", False),
    ],
)
def test_a_printed_list_is_a_list(show, separator, whole):
    draw = np.random.default_rng(0)
    texts = [show(draw.integers(0, 300, draw.integers(1, 30))) for _ in range(2_000)]
    ((feature,), _) = guess_features(pa.table({"prev_items": texts}), skipped=[], uneven={})
    assert (feature.kind, feature.separator, feature.whole) == ("list", separator, whole)
