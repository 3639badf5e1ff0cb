"""Labels that are numbers: grades, amounts and counts."""

import numpy as np
import pyarrow as pa

from iak.pipeline.data.guess_labels import guess_labels, guess_leaks
from iak.pipeline.data.guess_numbers import guess_counts, guess_feedback, guess_grade


def test_a_grade_that_an_item_has_is_none_that_a_user_gave():
    draw = np.random.default_rng(0)
    items = draw.integers(0, 40, 2_000)
    table = pa.table({"item_id": items, "stars": items % 5, "rating": draw.integers(1, 6, 2_000)})
    assert guess_grade(table).column == "rating"
    assert guess_grade(table.drop_columns("rating")) is None


def test_how_much_was_watched_is_a_label_and_beside_one_a_leak():
    draw = np.random.default_rng(0)
    seconds = draw.gamma(2, 30, 400)
    columns = {"play_time": seconds, "watch_ratio": seconds / 90, "avg_watch_time": seconds}
    rows = pa.table(columns)
    label = guess_feedback(rows)
    assert (label.column, label.positives) == ("watch_ratio", int(label.of(rows).sum()))
    assert 0.4 < label.positives / 400 < 0.6
    assert len(f"{label.at_least:g}") <= 4
    assert guess_feedback(rows, skipped=["watch_ratio"]).column == "play_time"
    clicks = pa.table(columns | {"click": np.arange(400) % 2})
    leaks = guess_leaks(clicks, guess_labels(clicks))
    assert [leak.column for leak in leaks] == ["play_time", "watch_ratio"]


def test_amounts_in_text_are_labels_as_their_numbers_are():
    draw = np.random.default_rng(0)
    ratios = [f"{ratio:.3f}" for ratio in draw.gamma(2, 0.4, 400)]
    label = guess_feedback(pa.table({"watch_ratio": ratios}))
    assert label == guess_feedback(pa.table({"watch_ratio": [float(text) for text in ratios]}))
    stars = pa.table({"rating": [str(star) for star in draw.integers(1, 6, 400)] + [""]})
    grade = guess_grade(stars)
    assert (grade.column, grade.rows, grade.positives) == (
        "rating",
        400,
        grade.of(stars)[:-1].sum(),
    )
    assert guess_grade(pa.table({"rating": ["good", "5"] * 9})) is None


def test_of_mostly_nothing_the_least_something_is_enough():
    rows = pa.table({"dwell": np.repeat([0.0, 0.0, 0.0, 3.0, 9.0], 100)})
    label = guess_feedback(rows)
    assert (label.at_least, label.positives) == (3.0, 200)
    assert guess_feedback(pa.table({"dwell": np.zeros(9)})) is None


def test_a_number_that_stands_for_no_grade_is_no_label():
    draw = np.random.default_rng(0)
    graded = draw.integers(1, 11, 400)
    for none, is_none in ((0, draw.random(400) < 0.6), (-1, draw.random(400) < 0.05)):
        rows = pa.table({"Book-Rating": np.where(is_none, none, graded)})
        grade = guess_grade(rows)
        assert (grade.missing, grade.rows, grade.is_unsure) == ((none,), (~is_none).sum(), True)
        assert grade.at_least > 5
        assert np.isnan(grade.of(rows)).tolist() == is_none.tolist()
    rows = pa.table({"rating": draw.integers(0, 6, 400)})
    assert guess_grade(rows).missing == ()


def test_a_column_that_counts_clicks_is_a_label_from_one_on():
    draw = np.random.default_rng(0)
    shown = draw.integers(1, 9, 900)
    rows = pa.table({"click": draw.binomial(shown, 0.05), "impression": shown})
    label = guess_counts(rows)
    assert (label.column, label.kind, label.at_least) == ("click", "click", 1.0)
    assert "a row stands for impression of them" in label.reading
    assert guess_counts(rows.rename_columns(["click_cnt", "n"])).positives == label.positives
    for name in ("clicks_of_user", "past_clicks", "sold"):
        assert guess_counts(rows.rename_columns([name, "n"])) is None
    assert guess_counts(pa.table({"clicks": draw.integers(1, 9, 900)})) is None
