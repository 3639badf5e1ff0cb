"""Dates that a prediction is asked for, in the ways in which people write them."""

from datetime import date

import pytest
from pydantic import TypeAdapter, ValidationError

from iak.schemas.scoring import DateRange

DATES = TypeAdapter(DateRange)
FIRST, LAST = date(2026, 10, 20), date(2026, 10, 28)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-10-20..2026-10-28", (FIRST, LAST)),
        (["2026-10-20..2026-10-28"], (FIRST, LAST)),
        (["2026-10-20", "2026-10-28"], (FIRST, LAST)),
        ("2026-10-20", (FIRST, FIRST)),
        ((FIRST, LAST), (FIRST, LAST)),
    ],
)
def test_a_range_of_dates_is_read(written, expected):
    assert DATES.validate_python(written) == expected


@pytest.mark.parametrize("written", ["2026-10-28..2026-10-20", [LAST, FIRST]])
def test_a_range_that_runs_backwards_is_refused(written):
    with pytest.raises(ValidationError, match=r"2026-10-28\.\.2026-10-20 runs backwards"):
        DATES.validate_python(written)


@pytest.mark.parametrize("written", ["x..y", "2026-10-20..", 7, ["2026-10-20", "2026-10-28", "x"]])
def test_what_is_no_range_is_refused(written):
    with pytest.raises(ValidationError):
        DATES.validate_python(written)
