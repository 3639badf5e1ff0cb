"""Write a platform's log of 20 columns, two of them histories, and its catalogue.

Ids follow Zipf's law. Users have arbitrary 64-bit numbers, as on platforms. Six columns are text of
few words. Labels are random, since the log serves to measure reading, not learning.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator

from iak.pipeline.data import hashing
from iak.schemas.feature import FIRST_ROW
from iak.schemas.log import Catalog
from infra.benchmarks.specs import BenchDataSpec

ENCODINGS = ("mixed", "identity", "hash", "vocabulary")
HISTORY = 20
"""Most items of a history."""
_SIZES = {"item_id": 200_000, "shop_id": 10_000, "category": 97, "brand": 5_000}
_SMALL = {"weekday": 7, "age_group": 8}
_WORDS = {"city": 300, "district": 2_000, "daypart": 5, "scene": 4, "device": 800, "os_version": 60}
_USERS = 1_000_000
_REGIONS, _DAYS = ("north", "south"), ("2026-10-01", "2026-10-02")


def write_log(spec: BenchDataSpec, root: Path) -> int:
    """Write a wide log of a platform, 20 columns and two histories; return its bytes."""
    size = 0
    partitions = list(product(_REGIONS, _DAYS))
    ends = np.linspace(0, spec.rows, len(partitions) + 1).astype(int)
    for number, (region, day) in enumerate(partitions):
        path = root / "events" / f"region={region}" / f"dt={day}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        draw = np.random.default_rng([spec.seed, number])
        pq.write_table(
            _rows(draw, int(ends[number]), int(ends[number + 1])),
            path,
            compression=spec.compression,
            row_group_size=spec.row_group_rows,
            write_page_checksum=True,
        )
        size += path.stat().st_size
    return size


def _rows(draw: Generator, first: int, last: int) -> pa.Table:
    count = last - first
    item = _zipf(draw, _SIZES["item_id"], count)
    lengths = draw.integers(0, HISTORY + 1, count)
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    past = _zipf(draw, _SIZES["item_id"], int(lengths.sum()))
    clicked = draw.random(count) < 0.14
    user = hashing.mix(_zipf(draw, _USERS, count, exponent=0.7).view(np.uint64))
    return pa.table(
        {
            "event_id": np.arange(first, last),
            "user_id": user.view(np.int64),  # as platforms number them: any 64 bits
            "item_id": item,
            "shop_id": (item // 20).astype(np.int32),
            "category": (item % 97).astype(np.int32),
            "brand": _zipf(draw, _SIZES["brand"], count).astype(np.int32),
            **{name: _text(draw, name, words, count) for name, words in _WORDS.items()},
            **{name: draw.integers(0, n, count).astype(np.int8) for name, n in _SMALL.items()},
            "hist_item_ids": pa.ListArray.from_arrays(ends, pa.array(past)),
            "hist_categories": pa.ListArray.from_arrays(ends, pa.array((past % 97).astype("i4"))),
            "price": draw.gamma(2.0, 9.0, count).round(2),
            "distance_km": draw.gamma(2.0, 1.5, count).astype(np.float32),
            "label_click": clicked.astype(np.int8),
            "label_order": (clicked & (draw.random(count) < 0.2)).astype(np.int8),
        }
    )


def _zipf(draw: Generator, ids: int, count: int, exponent: float = 1.05) -> npt.NDArray[np.int64]:
    """Draw ids by rank, the k-th with a chance of about k^-exponent."""
    left = 1 - exponent
    rank = (draw.random(count) * (ids**left - 1) + 1) ** (1 / left)
    ids_V: npt.NDArray[np.int64] = np.minimum(rank.astype(np.int64), ids - 1)
    return ids_V


def _text(draw: Generator, name: str, words: int, count: int) -> pa.Array:
    spelt = pa.array([f"{name}_{word}" for word in range(words)])
    return spelt.take(pa.array(_zipf(draw, words, count)))


def catalog_with(encoding: str) -> Catalog:
    """Return the log's catalogue with its ids encoded one way; `mixed` is a realistic choice."""
    counted = _SIZES | _SMALL
    tables: dict[str, dict[str, Any]] = {"user_id": {"encoding": "hash", "rows": 1_000_000}}
    if encoding == "mixed":
        tables |= {n: {"encoding": "identity", "rows": r + FIRST_ROW} for n, r in _SMALL.items()}
    elif encoding == "identity":  # of what is counted; text has a vocabulary, users are hashed
        tables |= {n: {"encoding": "identity", "rows": r + FIRST_ROW} for n, r in counted.items()}
    elif encoding == "hash":
        rows = counted | _WORDS | {"region": 2}
        tables |= {n: {"encoding": "hash", "rows": 2 * r + FIRST_ROW} for n, r in rows.items()}
    else:
        tables = {}
    names = ["user_id", *_SIZES, *_WORDS, *_SMALL, "region"]
    lists = {"history": ("hist_item_ids", "item_id"), "past": ("hist_categories", "category")}
    return Catalog.model_validate(
        {
            "log": {
                "name": "wide",
                "partition_keys": ["region", "dt"],
                "date_key": "dt",
                "row_id": "event_id",
                "user": "user_id",
            },
            "domain": {"keys": ["region"]},
            "features": [
                *({"kind": "categorical", "name": name} for name in names),
                *(
                    {"kind": "list", "name": n, "column": column, "table": t, "last": HISTORY}
                    for n, (column, t) in lists.items()
                ),
                *({"kind": "numeric", "name": n, "log": True} for n in ("price", "distance_km")),
            ],
            "tables": tables,
            "tasks": [
                {"label": "label_click", "kind": "click"},
                {"label": "label_order", "kind": "conversion"},
            ],
            "splits": {"pretrain": {}},
        }
    )
