"""Two answers in any spelling are one label."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.guess_answers import answers_of
from iak.pipeline.data.guess_labels import (
    LabelGuess,
    guess_labels,
)

PAIRS = [
    ("N", "Y"), ("no", "yes"), ("False", "True"), ("f", "t"), ("0", "1"), ("0.0", "1.0"), (-1, 1),
    (-1.0, 1.0), (0, 1), (False, True), (1, 2),
    ("-1", "1"), ("1", "2"),
]  # fmt: skip


@given(labels=st.lists(st.none() | st.booleans(), min_size=1, max_size=12),
       pair=st.sampled_from(PAIRS))  # fmt: skip
def test_the_label_that_is_written_reads_as_the_answers_that_were_seen(labels, pair):
    column = pa.chunked_array([pa.array([None if v is None else pair[v] for v in labels])])
    answers = answers_of(column, is_label=True)
    both = {v for v in labels if v is not None} == {True, False}
    assert answers is not None or not both
    if answers is None:
        return
    guess = LabelGuess(
        column="y", kind="click", positives=0, rows=0, why="", at_least=answers.at_least,
        positive=answers.positive,
    )  # fmt: skip
    read = guess.of(pa.table({"y": column}))
    assert np.array_equal(read, answers.values, equal_nan=True)
    if both:
        wanted = [np.nan if v is None else float(v) for v in labels]
        assert np.array_equal(answers.values, wanted, equal_nan=True)


@pytest.mark.parametrize(
    "values", [["yes", "maybe"], ["y", "no"], [0, 2], [2, 3], [1.5, 1], ["", ""], [[0], [1]], ["n"]]
)
def test_other_values_are_no_answers(values):
    assert answers_of(pa.chunked_array([pa.array(values)]), is_label=True) is None


def test_one_and_two_are_answers_only_where_the_name_says_so():
    column = pa.chunked_array([pa.array([1, 2, 2])])
    assert answers_of(column, is_label=False) is None


def test_every_spelling_of_yes_is_positive():
    column = pa.chunked_array([pa.array(["Y", "y", "n", "N", "", None])])
    answers = answers_of(column, is_label=False)
    assert answers.positive == ("Y", "y")
    assert np.array_equal(answers.values, [1, 1, 0, 0, np.nan, np.nan], equal_nan=True)
    assert answers.why == "its words are N and Y and n and y"


def test_clicks_and_orders_in_words_are_a_click_and_its_conversion():
    click = np.arange(400) % 2
    order = click * (np.arange(400) % 4 == 1)
    words = np.array(["N", "Y"])
    rows = pa.table({"member": words[click[::-1]], "clicked": words[click], "buy": words[order]})
    guesses = guess_labels(rows)
    assert [(g.column, g.kind, g.positive) for g in guesses] == [
        ("clicked", "click", ("Y",)),
        ("buy", "conversion", ("Y",)),
    ]


def test_a_number_is_a_label_rather_than_a_word_where_no_name_tells():
    half = np.arange(400) % 2
    words = np.array(["N", "Y"])[np.random.default_rng(0).integers(0, 2, 400)]
    assert [g.column for g in guess_labels(pa.table({"c1": half, "c2": words}))] == ["c1"]
    assert [g.column for g in guess_labels(pa.table({"c2": words}))] == ["c2"]
