"""A number as a setting is of its kind, finite, and within bounds that only a slip would leave."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from iak.schemas import numbers

WHOLE = {
    "Seed": (0, 2**31 - 1),
    "Count": (1, 10**9),
    "CountOrZero": (0, 10**9),
    "Rows": (1, 10**15),
    "BatchRows": (1, 10**8),
    "TableRows": (1, 10**11),
    "Width": (1, 8_192),
    "Units": (1, 65_536),
    "UnitsOrZero": (0, 65_536),
    "Layers": (0, 64),
    "Workers": (1, 100_000),
}
REAL = {
    "Rate": (0, 1_000),
    "Weight": (0, 10**6),
    "Margin": (0, 1_000),
    "Size": (0, 10**6),
    "Ceiling": (0, 10**15),
    "Gib": (0, 10**9),
    "Seconds": (0, 10**9),
    "Days": (0, 100_000),
    "Speed": (0, 10**9),
    "Money": (0, 10**9),
    "Share": (0, 1),
}
ABOVE_ZERO = {"Rate", "Size", "Ceiling", "Gib", "Speed"}
"""Real numbers that cannot be zero."""


def takes(kind, value):
    try:
        taken = TypeAdapter(getattr(numbers, kind)).validate_python(value)
    except ValidationError:
        return False
    assert taken == value
    return True


def test_no_kind_is_left_out():
    kinds = {name for name in vars(numbers) if name[0].isupper()}
    assert kinds - {"Annotated", "BeforeValidator", "Field"} == {*WHOLE, *REAL, "Whole", "Number"}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=30)
@given(value=st.integers() | st.integers(-2, 2))
def test_a_whole_number_is_taken_from_its_least_to_its_most(kind, value):
    least, most = WHOLE[kind]
    assert takes(kind, value) == (least <= value <= most)


@pytest.mark.parametrize("kind", WHOLE)
def test_the_bounds_of_a_whole_number_themselves_are_taken(kind):
    least, most = WHOLE[kind]
    assert [takes(kind, n) for n in (least - 1, least, most, most + 1)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("kind", REAL)
@settings(max_examples=30)
@given(value=st.floats(allow_nan=False))
def test_a_real_number_is_taken_within_its_bounds(kind, value):
    _, most = REAL[kind]
    is_above = value > 0 if kind in ABOVE_ZERO else value >= 0
    assert takes(kind, value) == (is_above and value <= most)


@pytest.mark.parametrize("kind", REAL)
def test_the_bounds_of_a_real_number_themselves_are_taken_and_zero_where_it_means_something(kind):
    most = float(REAL[kind][1])
    assert takes(kind, most)
    assert not takes(kind, math.nextafter(most, math.inf))
    assert takes(kind, 0.0) == (kind not in ABOVE_ZERO)
    assert not takes(kind, math.nextafter(0.0, -1.0))


@pytest.mark.parametrize("kind", [*WHOLE, *REAL])
@pytest.mark.parametrize("value", [True, False, math.nan, math.inf, "many", None, [1]])
def test_what_is_no_number_is_refused_true_and_false_too(kind, value):
    assert not takes(kind, value)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_part_of_a_whole_number_is_refused(kind):
    assert not takes(kind, 1.5)


def test_true_is_refused_in_words():
    with pytest.raises(ValidationError, match="it is true or false, expected a number"):
        TypeAdapter(numbers.Count).validate_python(True)
