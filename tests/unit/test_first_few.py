"""A message names the first few of many things, and counts the others."""

from datetime import date

import pytest

from iak.pipeline.first_few import first_few


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (1, "n0"),
        (3, "n0, n1, n2"),
        (4, "n0, n1, n2, and 1 more"),
        (2_003, "n0, n1, n2, and 2,000 more"),
    ],
)
def test_what_is_left_out_is_counted(count, text):
    assert first_few([f"n{number}" for number in range(count)], 3) == text


def test_between_two_of_them_stands_what_is_asked_for():
    assert first_few(["a, b", "c", "d"], 2, between="; ") == "a, b; c; and 1 more"


def test_things_are_written_as_text():
    days = {date(2026, 11, day): day for day in (1, 2)}
    assert first_few(days) == "2026-11-01, 2026-11-02"
