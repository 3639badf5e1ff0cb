"""Labels that had not matured are told with their share."""

import pytest

from iak.jobs.skipped import not_ripe

MASKED = {"warn: not ripe by 2026-10-02 in order": 25}


@pytest.mark.parametrize(
    ("counts", "rows", "text"),
    [
        (MASKED, 100, "order: 25 of 100 rows (25.0%) by 2026-10-02"),
        (MASKED, 0, "order: 25 of 0 rows (0.0%) by 2026-10-02"),
        ({}, 100, "none"),
        ({"warn: null id in event_id": 3}, 100, "none"),
        (
            MASKED | {"warn: not ripe by 2026-10-03 in like it": 1},
            1_000,
            "order: 25 of 1,000 rows (2.5%) by 2026-10-02; "
            "like it: 1 of 1,000 rows (0.1%) by 2026-10-03",
        ),
    ],
)
def test_each_task_is_named_with_its_share_and_date(counts, rows, text):
    assert not_ripe(counts, rows) == text
