"""Rows of the small log in memory, with statistics of them: by day, or out of fold."""

from datetime import date

import numpy as np
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.data.fresh_keys import fresh_columns
from iak.pipeline.data.parquet import RawRows
from iak.pipeline.fresh.counts import count_rows
from iak.pipeline.fresh.inputs import statistics_of
from iak.pipeline.fresh.state import State, sums_of
from tests.builders import DAYS, REGIONS, batch_of, draw_rows, small_catalog

FRESH = (
    {"keys": ["item_id"], "windows": ["P1D", "all"], "tasks": ["ctr", "cvr", "ctcvr"]},
    {"keys": ["user_id", "scene"], "cross_domain": False},
    {"kind": "co_occurrence", "pair": ["item_id", "hist"], "last": 3, "neighbours": 3},
)
OUT_OF_FOLD = (
    {"keys": ["item_id"]},
    {"kind": "co_occurrence", "pair": ["item_id", "hist"], "last": 3, "neighbours": 3},
)
LAST = date.fromisoformat(DAYS[-1]).toordinal() - date(1970, 1, 1).toordinal()


def dated_catalog(**changes):
    return small_catalog(**({"fresh": FRESH} | changes))


def undated_catalog(**changes):
    undated = {"log__date_key": None, "log__event_time": None, "fresh": OUT_OF_FOLD}
    return small_catalog(**(undated | changes))


def drawn(count, seed=0):
    """Raw rows of some days and regions, their labels without nulls."""
    draw = np.random.default_rng([7, seed])
    rows = draw_rows(count, seed=seed)
    columns = {name: rows.column(name) for name in rows.column_names}
    columns["region"] = pa.array(draw.choice(REGIONS, count))
    columns["dt"] = pa.array(draw.choice(DAYS, count))
    return with_labels(batch_of(columns), draw.integers(0, 2, count))


def with_labels(rows, click):
    """The same rows with other clicks; each second click is an order."""
    order = click * (np.arange(len(click)) % 2)
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns |= {"click": pa.array(click.astype(np.int8)), "order": pa.array(order.astype(np.int8))}
    return batch_of(columns)


def raw_of(rows):
    return RawRows(rows=rows, identity=hashing.keys_of(rows.column("event_id")))


def counted(parts, catalog):
    """What one worker counted of parts of a log."""
    sums = sums_of(catalog)
    for rows in parts:
        for name, entries in count_rows(raw_of(rows), catalog).items():
            sums[name].add(entries)
    return sums


def state_of(parts, catalog, last=LAST):
    return State.of(counted(parts, catalog), catalog, last)


def keys_of(rows, catalog):
    return pa.table(fresh_columns(rows, raw_of(rows).identity, catalog))


def statistics(rows, state, catalog):
    return statistics_of(keys_of(rows, catalog), state, catalog)
