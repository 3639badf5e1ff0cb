from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iak.pipeline.data.window_shift import domain_drift, measure_shift
from iak.schemas.domain import Domain
from tests.builders import batch_of, encoding_of, partition, small_catalog, write_file, write_log

DAYS = ("2026-10-01", "2026-10-02")
BEFORE, AFTER = ((date.fromisoformat(day),) * 2 for day in DAYS)
ROWS = 4_000


@pytest.fixture
def rows(tmp_path):
    return write_log(tmp_path, [("hangzhou", day, [ROWS // 2] * 2) for day in DAYS])


def rewrite(root, rows, **columns):
    """Write the second day again with other values."""
    day = rows.slice(ROWS).select(rows.column_names[:-2])
    for name, values in columns.items():
        index = day.schema.get_field_index(name)
        day = day.set_column(index, name, pa.array(values, day.schema.field(name).type))
    (path,) = (root / partition("hangzhou", DAYS[1])).glob("*.parquet")
    write_file(path, day)


def shift(root, rows):
    catalog = small_catalog(log__path="")
    encoding = encoding_of(batch_of(rows.slice(0, ROWS)), catalog)
    found = measure_shift(catalog, str(root), before=BEFORE, after=AFTER, encoding=encoding)
    return {one.name: one for one in found.shifts}, found.unseen


def test_nothing_has_moved_where_days_are_alike(tmp_path, rows):
    shifts, unseen = shift(tmp_path, rows)
    assert {one.word for one in shifts.values()} == {"stable"}
    assert {"price", "item", "ctr", "cvr"} <= set(shifts)
    assert unseen["item"] == 0


def test_an_input_that_moved_comes_first(tmp_path, rows):
    rewrite(tmp_path, rows, price=np.full(ROWS, 3.0))
    shifts, _ = shift(tmp_path, rows)
    assert next(iter(shifts)) == "price"
    assert shifts["price"].word == "changed"
    assert shifts["age"].word == "stable"


def test_the_rate_of_a_label_is_compared(tmp_path, rows):
    rewrite(tmp_path, rows, click=np.ones(ROWS))
    shifts, _ = shift(tmp_path, rows)
    assert shifts["ctr"].index == pytest.approx(1.0, abs=0.1)
    assert shifts["ctr"].word == "changed"
    assert 0 < shifts["ctr"].noise < 0.1


def test_ids_that_the_base_does_not_know_are_counted(tmp_path, rows):
    items = np.where(np.arange(ROWS) % 4 == 0, 10_000 + np.arange(ROWS), 1)
    rewrite(tmp_path, rows, item_id=items)
    _, unseen = shift(tmp_path, rows)
    assert 0 < unseen["item"] < 0.5
    assert unseen["user_id"] == 0


def test_the_drift_of_a_domain_is_that_of_its_own_rows(tmp_path):
    layout = [(region, day, [500]) for region in ("hangzhou", "ningbo") for day in DAYS]
    rows = write_log(tmp_path, layout)
    moved = rows.filter((pc.field("region") == "ningbo") & (pc.field("dt") == DAYS[1]))
    (path,) = (tmp_path / partition("ningbo", DAYS[1])).glob("*.parquet")
    index = moved.schema.get_field_index("price")
    values = pa.array(np.full(500, 3.0), moved.schema.field("price").type)
    write_file(path, moved.set_column(index, "price", values).select(rows.column_names[:-2]))

    def drift(region, days=AFTER):
        domain = Domain((("region", region),))
        catalog = small_catalog(log__path="")
        return domain_drift(catalog, str(tmp_path), domain, before=BEFORE, after=days)

    assert drift("hangzhou") < 0.1
    assert drift("ningbo") > 0.25
    assert drift("ningbo", (date(2026, 12, 1),) * 2) is None


def test_an_input_of_the_calendar_has_not_drifted(tmp_path):
    rows = write_log(tmp_path, [("hangzhou", day, [500]) for day in DAYS])
    for number, day in enumerate(DAYS):
        (path,) = (tmp_path / partition("hangzhou", day)).glob("*.parquet")
        own = rows.filter(pc.field("dt") == day).select(rows.column_names[:-2])
        index = own.schema.get_field_index("slot")
        weekday = pa.array(np.full(500, number), own.schema.field("slot").type)
        write_file(path, own.set_column(index, "slot", weekday))
    domain, catalog = Domain((("region", "hangzhou"),)), small_catalog(log__path="")
    assert domain_drift(catalog, str(tmp_path), domain, before=BEFORE, after=AFTER) < 0.1
    shifts, _ = shift(tmp_path, rows)
    assert "slot" not in shifts
    assert "region" in shifts


def test_days_that_are_gone_leave_the_unseen_ids(tmp_path, rows):
    (path,) = (tmp_path / partition("hangzhou", DAYS[0])).glob("*.parquet")
    path.unlink()
    shifts, unseen = shift(tmp_path, rows)
    assert not shifts
    assert "item" in unseen
