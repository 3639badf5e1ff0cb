"""Messages about splits without rows name their windows, conditions and what the log has."""

from dataclasses import replace
from datetime import date

import pytest

from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.split_messages import conditions_message, windows_message
from tests.builders import DAYS, EVERYTHING, small_catalog, snapshot_of, write_log

CATALOG = small_catalog()
DATES = LogDates(counted=(date(2026, 10, 1), date(2026, 10, 3)))


def test_splits_of_one_window_are_named_together_beside_the_log_s_days():
    window = {"first": date(2026, 11, 1), "last": date(2026, 11, 2)}
    chosen = [
        replace(EVERYTHING, name="tune", **window),
        replace(EVERYTHING, name="gate", **window),
        replace(EVERYTHING, name="test"),
    ]
    assert windows_message(chosen, DATES) == (
        "the window of splits 'tune', 'gate' is 2026-11-01 to 2026-11-02; "
        "the window of split 'test' is all days; "
        "the log's first day is 2026-10-01, its last 2026-10-03"
    )


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"region": ("ningbo",)}, ""),
        (
            {"region": ("Ningbo",)},
            ". They ask for region = 'Ningbo', and values of region are 'hangzhou', 'ningbo'"
            " (did you mean 'ningbo'?)",
        ),
    ],
)
def test_unknown_values_are_named_beside_those_that_the_log_has(tmp_path, where, message):
    write_log(tmp_path, [("ningbo", DAYS[0], [4]), ("hangzhou", DAYS[0], [6])])
    chosen = [replace(EVERYTHING, where=where)]
    assert conditions_message(chosen, snapshot_of(tmp_path, CATALOG), CATALOG) == message
