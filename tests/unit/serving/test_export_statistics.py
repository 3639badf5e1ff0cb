"""An export reads the same fresh statistics as the package, to the last bit."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.base.published_base import ENCODING, open_base
from iak.pipeline.data import hashing, splits
from iak.pipeline.data.fresh_keys import as_of_now, fresh_columns
from iak.pipeline.data.written import WrittenNumber, WrittenTime
from iak.pipeline.fresh.base_numbers import fit_base_statistics
from iak.pipeline.fresh.inputs import statistics_of
from iak.pipeline.fresh.state import STATISTICS, definition_of
from iak.pipeline.publish.bundle import StatisticsFile
from iak.pipeline.serving import runtime
from iak.pipeline.serving.export_statistics import write_statistics
from iak.schemas.log import SplitSpec
from iak.schemas.manifest import StatisticsEntry
from tests.builders import DAYS, encoding_after
from tests.unit.base.test_published_base import MODELS, publish
from tests.unit.fresh.small import LAST, dated_catalog, drawn, raw_of, state_of, undated_catalog
from tests.unit.serving.shop import shop_catalog, write_base, write_bundles, write_shop
from tests.unit.serving.test_export import answers, assert_same, exported, scorer

DATED = dated_catalog()
TIMED = dated_catalog(
    log__date_key=None, log__partition_keys=["region"], log__time_zone="Asia/Shanghai"
)
SLOW = dated_catalog(
    tasks=[
        {"label": "click", "kind": "click", "matures_after": "P1D"},
        {"label": "order", "kind": "conversion"},
    ]
)
UNDATED, SLICED = undated_catalog(), undated_catalog(log__slice_by="user_id")
NUMBERED = undated_catalog(log__row_id=None)
CATALOGS = {
    "day": DATED, "time": TIMED, "slow labels": SLOW, "fold": UNDATED, "fold of a user": SLICED,
    "fold of a row's number": NUMBERED,
}  # fmt: skip
NIGHTS = 2
"""Nights whose kernels predict together, each by counts of its own."""


def states_of(catalog, seed):
    last = LAST if catalog in (DATED, TIMED, SLOW) else None
    parts = [[drawn(60, seed)], [drawn(40, seed + 1), drawn(20, seed + 2)]]
    return tuple(state_of(own, catalog, last) for own in parts)


def looked_up(folder, catalog, states, rows, slots):
    """What the runtime makes of rows, after everything went through files."""
    bundles = SimpleNamespace(states=states, state_K=(1, 0, 1))
    document = write_statistics(folder, bundles, catalog).model_dump_json()
    statistics = runtime.Statistics(folder, json.loads(document))
    columns = {name: rows.column(name).to_pylist() for name in statistics.columns}
    return statistics.of(columns, slots, len(slots) + 3).numpy()


def expected(catalog, states, rows, slots):
    identity = hashing.keys_of_positions(hashing.key_of_text("rows"), 0, len(rows))
    if catalog.log.row_id:
        identity = hashing.keys_of(rows.column("event_id"))
    keys = pa.table(as_of_now(fresh_columns(rows, identity, catalog)))
    both = [statistics_of(keys, state, catalog) for state in states]
    state_of_kernel = (1, 0, 1, None)
    found = np.zeros((len(slots) + 3, both[0].shape[1]), np.float32)
    for row, slot in enumerate(slots):
        if state_of_kernel[slot] is not None:
            found[row] = both[state_of_kernel[slot]][row]
    return found


@pytest.mark.parametrize("name", CATALOGS)
@given(seed=st.integers(0, 50), count=st.integers(1, 40), data=st.data())
@settings(max_examples=15)
def test_the_statistics_of_rows_are_those_of_the_package(tmp_path_factory, name, seed, count, data):
    catalog, rows = CATALOGS[name], drawn(count, seed + 9)
    states = states_of(catalog, seed)
    slots = data.draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count))
    folder = tmp_path_factory.mktemp("bank")
    found = looked_up(folder, catalog, states, rows, slots)
    wanted = expected(catalog, states, rows, slots)
    np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))


def test_a_row_without_a_day_reads_what_is_newest(tmp_path):
    rows, states = drawn(20, 3), states_of(DATED, 0)
    slots = [0] * len(rows)
    dated = rows.set_column(rows.schema.get_field_index("dt"), "dt", pa.array(["2027-01-01"] * 20))
    without = rows.set_column(rows.schema.get_field_index("dt"), "dt", pa.nulls(20, pa.string()))
    both = [looked_up(tmp_path, DATED, states, some, slots) for some in (dated, without)]
    np.testing.assert_array_equal(*both)


def test_counts_that_were_changed_are_refused(tmp_path):
    bundles = SimpleNamespace(states=states_of(DATED, 0), state_K=(0, 1))
    document = write_statistics(tmp_path, bundles, DATED).model_dump(mode="json")
    path = tmp_path / "statistics-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(runtime.BadExport, match=r"statistics-1\.safetensors has SHA-256"):
        runtime.Statistics(tmp_path, document)


def test_kernels_without_statistics_write_none(tmp_path):
    assert write_statistics(tmp_path, SimpleNamespace(states=()), DATED) is None
    assert not list(tmp_path.iterdir())


SHANGHAI = timezone(timedelta(hours=8))
DAY_1 = date.fromisoformat(DAYS[0]).toordinal() - date(1970, 1, 1).toordinal()
MIDNIGHT_S = DAY_1 * 86_400 - 8 * 3_600
"""The first second of the first day in Shanghai."""


@pytest.mark.parametrize(
    ("value", "unit", "day"),
    [
        (MIDNIGHT_S, "s", DAY_1),
        (MIDNIGHT_S - 1, "s", DAY_1 - 1),
        (MIDNIGHT_S * 1_000 - 1, "ms", DAY_1 - 1),
        (MIDNIGHT_S * 10**9, "ns", DAY_1),
        (MIDNIGHT_S * 10**9 - 1_000, "ns", DAY_1 - 1),
        (float(MIDNIGHT_S), "s", DAY_1),
        (datetime.fromtimestamp(MIDNIGHT_S, UTC), "s", DAY_1),
        (datetime.fromtimestamp(MIDNIGHT_S, SHANGHAI), "s", DAY_1),
        (datetime.fromisoformat(DAYS[0] + " 23:59:59"), "s", DAY_1),  # the clock of the zone
        (date.fromisoformat(DAYS[0]), "s", DAY_1),
        (None, "s", None),
        (float("nan"), "s", None),
        (1e300, "s", 1_460_000),  # further than a calendar goes
    ],
)
def test_a_time_is_on_the_day_that_clocks_of_the_zone_show(value, unit, day):
    found = runtime.day_of_time(value, "time", unit=unit, zone="Asia/Shanghai")
    assert found == day


@pytest.mark.parametrize(
    ("written", "sound", "value"),
    [
        ("%Y%m%d", "20261001", 20261005),
        ("%Y%m%d", "20261001", "20261005"),
        ("%Y%m%d", "20261001", "5.10."),
        ("%Y%m%d", "20261001", "20260931"),
        ("%y%m%d%H", "26100100", 26100523),
        ("%m/%d/%Y %I:%M:%S %p", "10/1/2026 1:00:00 AM", "10/5/2026 11:30:59 PM"),
        ("%Y-%m-%dT%H:%M:%S%z", "2026-10-01T00:00:00+0000", "2026-10-05T21:30:59+0000"),
        ("iso", "2026-10-01", "2026-10-05"),
        ("iso", "2026-10-01", "2026-10-05 23:30"),
        ("iso", "2026-10-01", "2026-10-05T23:30:59.5"),
        ("iso", "2026-10-01T00:00Z", "2026-10-05T16:30:59Z"),
        ("iso", "2026-10-01 00:00:00 UTC", "2026-10-05 16:30:59 UTC"),
        ("iso", "2026-10-01 00:00:00 UTC", "2026-10-05 16:30:59 GMT"),
        ("iso", "2026-10-01T00:00Z", "2026-10-05T21:30:59-04:30"),
        ("iso", "2026-10-01", "20261005"),
        ("iso", "2026-10-01", "2026-09-31"),
        ("iso", "2026-10-01T00:00Z", "2026-10-05T21:30-05:60"),
        ("iso", "2026-10-01", None),
    ],
)
def test_a_written_time_is_on_the_day_that_the_package_reads(written, sound, value):
    column = pa.array([sound, None if value is None else str(value)])
    times = WrittenTime(format=written).read(column)
    seconds = splits.seconds_of(times, time_zone="Asia/Shanghai")[1]
    shown = splits.date_of_seconds(seconds, "Asia/Shanghai") if seconds > 0 else None
    time = runtime.written_time(value, written)
    found = runtime.day_of_time(time, "time", unit="s", zone="Asia/Shanghai")
    assert found == (shown and (shown - date(1970, 1, 1)).days)


@given(
    value=st.dates(date(1990, 1, 1), date(2099, 12, 31)).flatmap(
        lambda day: st.sampled_from(
            [day.strftime(f) for f in ("%Y-%m-%d", "%Y%m%d", "%Y-%m", "%Y%m", "%G-W%V", "%Y%m%d07")]
        )
    )
    | st.sampled_from(
        [
            "a_20260203",
            "a-b_2026-02-03",
            "a_202602",
            "20260203ab",
            "2026020324",
            "2026-02-03-23",
            "2026",
            "",
            None,
            " 2026-12 ",
        ]
    )
)
def test_a_date_key_has_the_day_that_the_package_reads(value):
    day = splits.parse_date(value)
    assert runtime.day_of_date(value) == (day and (day - date(1970, 1, 1)).days)


@given(st.from_regex(r"(day_|D|[0-9]-)?[0-9]{1,6}", fullmatch=True) | st.none() | st.just("day"))
def test_a_numbered_day_is_the_one_that_the_package_reads(value):
    day = splits.numbered_day(value)
    assert runtime.day_of_number(value) == (day and (day - date(1970, 1, 1)).days)


@given(st.integers(-10_000, 100_000))
def test_a_number_of_a_day_is_that_day(number):
    assert runtime.day_of_time(number, "day", unit="d", zone="UTC") == number


@pytest.mark.parametrize("value", ["1790812800", " 1790899199.5", 1790812800, "+1.7908128e9"])
def test_a_unix_time_in_text_is_on_the_day_of_its_number(value):
    number = WrittenNumber().read(pa.array([str(value)]))
    seconds = splits.seconds_of(number, time_zone="Asia/Shanghai")[0]
    shown = splits.date_of_seconds(seconds, "Asia/Shanghai")
    time = runtime.written_time(value, "unix")
    found = runtime.day_of_time(time, "time", unit="s", zone="Asia/Shanghai")
    assert found == (shown - date(1970, 1, 1)).days
    assert runtime.written_time("soon", "unix") is None


@pytest.mark.parametrize("value", ["noon", True, [1]])
def test_what_is_no_time_is_refused_with_its_column(value):
    with pytest.raises(runtime.BadRows, match=r"column time holds .* expected a number in s"):
        runtime.day_of_time(value, "time", unit="s", zone="UTC")


def test_an_export_with_statistics_predicts_as_the_scorer_does(tmp_path):
    fresh = {"fresh": [{"keys": ["item_id"], "windows": ["P1D", "all"]}, {"keys": ["scene"]}]}
    known = shop_catalog(**fresh)
    rows, base = write_shop(tmp_path), write_base(tmp_path / "base")
    state = state_of([rows.combine_chunks().to_batches()[0]], known)
    state.write(tmp_path / STATISTICS)
    entry = StatisticsEntry(definition=definition_of(known), state=state.id)
    night = write_bundles(
        tmp_path / "bundles", base, width=len(known.fresh_names),
        statistics=StatisticsFile(path=tmp_path / STATISTICS, entry=entry),
    )  # fmt: skip
    catalog = known.to_score(SplitSpec())
    found = scorer(base, night, catalog=catalog)
    model = exported(tmp_path / "out", base, night, catalog=catalog)
    assert_same(model, found, rows)
    # Without their days the rows read newer counts, and so the answers are others.
    columns = rows.drop_columns("dt").to_pydict()
    later = model.predict(columns)["p.ctr"]
    assert (later != answers(found, rows).column("p.ctr").to_numpy()).any()


def base_with_statistics(folder, catalog, rows, last):
    """A base that reads what it counted of some rows."""
    counted, raw = catalog.counting("base"), raw_of(rows)
    fresh = fit_base_statistics(
        state_of([rows], counted, last), counted, [(raw.rows, raw.identity)]
    )
    publish(
        folder,
        catalog,
        replace(encoding_after(None, rows, catalog), fresh=fresh),
        MODELS["crosses"],
    )
    fresh.write(folder / ENCODING)
    return open_base(folder)


@pytest.mark.parametrize("dated", [True, False])
def test_a_base_that_reads_statistics_is_exported_with_them(tmp_path, dated):
    fresh = [
        {"keys": ["item_id"], "use": "base"},
        {"kind": "co_occurrence", "pair": ["item_id", "hist"], "last": 3, "use": "base"},
        {"keys": ["scene"]},
    ]
    undated = {} if dated else {"log__date_key": None, "log__event_time": None}
    known, rows = shop_catalog(fresh=fresh, **undated), write_shop(tmp_path)
    batch = rows.combine_chunks().to_batches()[0]
    base = base_with_statistics(tmp_path / "base", known, batch, LAST if dated else None)
    night = write_bundles(tmp_path / "bundles", base)
    catalog = known.to_score(SplitSpec())
    found = scorer(base, night, catalog=catalog)
    model = exported(tmp_path / "out", base, night, catalog=catalog)
    assert_same(model, found, rows)
    assert_same(model, found, rows.slice(11, 3))
    runtime.verify(tmp_path / "out")
    path = tmp_path / "out" / "fresh" / "statistics-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(runtime.BadExport, match=r"statistics-0.safetensors has SHA-256"):
        runtime.load(tmp_path / "out")
