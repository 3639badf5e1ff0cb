"""A small shop's log that nobody described."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY = 86_400


START = 1_790_812_800
"""2026-10-01 00:00 UTC."""


def shop(count=2_000, seed=0, **changes):
    """Columns of a small shop's log; a change of None takes a column out."""
    draw = np.random.default_rng(seed)
    click = draw.integers(0, 2, count)
    items = draw.integers(0, 200, count) + 7_000
    columns = {
        "event_id": np.arange(count) + 10**6,
        "event_time": START + draw.integers(0, 10 * DAY, count),
        "user_id": [f"u{i}" for i in draw.integers(0, 150, count)],
        "item_id": items,
        "history": [draw.integers(0, 200, 8) + 7_000 for _ in range(count)],
        "price": np.exp(draw.normal(2, 2.5, count)),
        "label_click": click,
        "label_order": click * draw.integers(0, 2, count),
        "scene": draw.choice(["search", "feed", "cart"], count),
    } | changes
    return pa.table({k: v for k, v in columns.items() if v is not None})


def write(root, table, *, folder="", name="part-0.parquet"):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return root
