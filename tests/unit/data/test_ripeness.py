"""A label is ripe once it can no longer change; until then it is masked and counted."""

from datetime import date

import pyarrow as pa

from iak.pipeline.data import ripeness
from iak.pipeline.data.breaches import named
from tests.builders import batch_of, small_catalog


def test_labels_ripen_by_event_time_and_unknown_ages_never_do():
    catalog = small_catalog(tasks=[{"label": "click", "matures_after": "P1D"}, {"label": "order"}])
    noon = 1_790_812_800 + 43_200
    rows = batch_of(
        {
            "event_time": pa.array([noon, noon + 86_400, None], pa.int64()),
            "click": pa.array([1, 1, 1], pa.int8()),
        }
    )
    unripe = ripeness.unripe(rows, catalog, date(2026, 10, 2))
    assert unripe["click"].tolist() == [False, True, True]
    assert "order" not in unripe


def test_without_a_collection_date_each_label_is_ripe():
    catalog = small_catalog(tasks=[{"label": "click", "matures_after": "P1D"}, {"label": "order"}])
    rows = batch_of({"event_time": pa.array([1_790_812_800], pa.int64())})
    assert ripeness.unripe(rows, catalog, None) == {}


def test_unripe_labels_are_counted_by_label_and_labels_without_any_are_left_out():
    catalog = small_catalog(
        tasks=[
            {"label": "click", "matures_after": "P1D"},
            {"label": "order", "matures_after": "P7D"},
        ]
    )
    midnight = 1_790_812_800
    rows = batch_of({"event_time": pa.array([midnight, midnight + 86_399], pa.int64())})
    masks = ripeness.unripe(rows, catalog, date(2026, 10, 3))
    counts = named(ripeness.unripe_counts(masks, catalog, date(2026, 10, 3)))
    assert counts == {"warn: not ripe by 2026-10-03 in order": 2}
