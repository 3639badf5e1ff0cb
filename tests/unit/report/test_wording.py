from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.report import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, wording.NONE),
        (0, "0 s"),
        (0.42, "0.4 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_a_duration_has_two_units(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (12_345, "12.3\u00a0k"),
        (999_960, "1\u00a0M"),
        (4_560_000, "4.56\u00a0M"),
    ],
)
def test_a_large_number_is_short(number, text):
    assert wording.short(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "+0.0123"),
        (-0.01234, "\N{MINUS SIGN}0.0123"),
        (-0.00001, "0.0000"),
        (None, wording.NONE),
    ],
)
def test_a_difference_has_its_sign_unless_it_rounds_to_zero(value, text):
    assert wording.signed(value) == text


@given(st.floats(-1e13, 1e13))
def test_no_short_number_is_long(value):
    assert len(wording.short(value).strip("-")) <= 7


def test_small_money_keeps_digits():
    assert wording.money(0.0123, "EUR") == "0.0123\u00a0EUR"
    assert wording.money(1234.5, "USD") == "1,234.50\u00a0USD"


def test_dates_have_no_leading_zero():
    assert wording.weekday(date(2026, 10, 4)) == "Sunday, 4 October 2026"
    assert wording.moment(datetime(2026, 10, 4, 5, 2, tzinfo=UTC)) == "4 Oct 2026, 05:02 UTC"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0\u00a0B"),
        (999, "999\u00a0B"),
        (12_345, "12.3\u00a0kB"),
        (999_600, "1\u00a0MB"),
        (48_120_000, "48.1\u00a0MB"),
        (3 * 10**15, "3e+03\u00a0TB"),
    ],
)
def test_a_size_has_three_digits_and_its_unit(number, text):
    assert wording.size(number) == text


def test_a_sentence_is_said_once_for_all_domains_of_which_it_is_true():
    said = wording.said_once([("b", "dead"), ("a", "thin"), ("c", ""), ("d", "dead")])
    assert said == ["b, d: dead", "a: thin"]


def test_of_many_domains_some_are_named_and_of_many_sentences_the_commonest_are_said():
    dead = [(f"user={number}", "dead") for number in range(4_500)]
    shares = [(f"item={number}", f"{number}% of it") for number in range(9)]
    first, *rest = wording.said_once([*shares, *dead], most=4)
    assert first == "user=0, user=1, user=2, user=3, user=4, and 4,495 more: dead"
    assert rest[:3] == ["item=0: 0% of it", "item=1: 1% of it", "item=2: 2% of it"]
    assert rest[3:] == ["6 more remarks of this kind, on other domains"]
