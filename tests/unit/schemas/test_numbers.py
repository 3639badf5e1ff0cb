"""Numbers in settings: a truth value is none, and bounds stop typing errors."""

import pytest
from pydantic import TypeAdapter, ValidationError

from iak.schemas import numbers


@pytest.mark.parametrize("kind", [numbers.Count, numbers.Size, numbers.Seed, numbers.Share])
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(kind, value):
    with pytest.raises(ValidationError, match="it is true or false, expected a number"):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (numbers.Rows, 1e23),
        (numbers.Count, 0),
        (numbers.Seed, -1),
        (numbers.Share, 1.5),
        (numbers.Rate, 0),
        (numbers.Width, 100_000),
    ],
)
def test_a_number_beyond_its_bounds_is_refused(kind, value):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


def test_zero_is_allowed_where_the_name_says_so():
    assert TypeAdapter(numbers.CountOrZero).validate_python(0) == 0
    assert TypeAdapter(numbers.UnitsOrZero).validate_python(0) == 0
