"""Handed logs whose days, times, ids or files were read wrongly: the right answer for each."""

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline.data import skipped
from iak.pipeline.data.check import Report, check_log
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadLog
from iak.pipeline.runs.load import parse_catalog
from iak.schemas.log import Catalog

REPOSITORY = Path(__file__).parents[3]
CASES = REPOSITORY.parent / "shared" / "cases"
TODAY = date(2026, 11, 28)
"""After every case's days but before the stray ones."""

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases at {CASES}")


def catalog_of(case: str, **log: object) -> Catalog:
    document = parse_catalog(CASES / case / "shop.toml").model_dump(mode="json", by_alias=True)
    return Catalog.model_validate(document | {"log": document["log"] | log})


def view_of(case: str, *, today: date | None = TODAY, **log: object) -> LogView:
    catalog = catalog_of(case, **log)
    return open_log(catalog, str(CASES / case), wanted=list(catalog.splits), today=today)


def report_of(case: str, *, today: date | None = TODAY, **log: object) -> Report:
    return check_log(catalog_of(case, **log), str(CASES / case), sample_rows=200_000, today=today)


def rows_of(view: LogView) -> dict[str, int]:
    return {name: selection.rows for name, selection in view.selections.items()}


def ids_of(view: LogView) -> dict[str, set[str]]:
    return {
        name: {i for rows, _ in view.raw_rows(name) for i in rows.column("event_id").to_pylist()}
        for name in view.selections
    }


@pytest.mark.parametrize("today", [TODAY, date(2027, 6, 1), None], ids=str)
@pytest.mark.parametrize(
    ("case", "column", "stray"),
    [("strayday", "dt", "2027-01-01"), ("future", "event_time", "2026-12-24")],
)
def test_a_lone_row_far_ahead_is_warned_of_and_moves_no_window(case, column, stray, today):
    view = view_of(case, today=today)
    base = view_of("base")
    assert [(s.split.first, s.split.last) for s in view.selections.values()] == [
        (s.split.first, s.split.last) for s in base.selections.values()
    ]
    assert view.as_of == date(2026, 10, 10)
    assert view.selections["test"].rows == 2_400
    (finding,) = [f for f in view.findings if stray in f.what]
    assert (finding.level, finding.column, finding.count) == ("warn", column, 1)
    assert stray in " ".join(f.what for f in report_of(case, today=today).findings)


def test_labels_are_collected_no_later_than_today_whoever_says_so():
    catalog = catalog_of("strayday")
    view = open_log(
        catalog, str(CASES / "strayday"), wanted=["test"], as_of=date(2027, 1, 1), today=TODAY
    )
    assert view.as_of == TODAY
    assert "as_of 2027-01-01 lies beyond today" in " ".join(f.what for f in view.findings)


def test_an_empty_window_names_itself_and_the_logs_first_and_last_day():
    catalog = catalog_of("strayday")
    document = catalog.model_dump(mode="json") | {
        "splits": {"test": {"dates": ["2026-12-30", "2027-01-01"]}}
    }
    for where in ({"region": ["north"]}, {"category": ["no such"]}):  # no file, and no row
        document["splits"]["test"]["where"] = where
        with pytest.raises(BadLog) as error:
            open_log(Catalog.model_validate(document), str(CASES / "strayday"), wanted=["test"])
        assert (
            "the window of split 'test' is 2026-12-30 to 2027-01-01; the log's first day is "
            "2026-10-01, its last 2026-10-10"
        ) in str(error.value)


def test_milliseconds_are_refused_before_training_and_read_once_they_are_declared():
    with pytest.raises(BadLog, match=r'Set event_time_unit = "ms" under \[log\]'):
        view_of("millis")
    refused = [f.what for f in report_of("millis").findings if f.level == "refuse"]
    assert len(refused) == 1
    assert 'event_time_unit = "ms"' in refused[0]
    assert ids_of(view_of("millis", event_time_unit="ms")) == ids_of(view_of("base"))
    assert not [f for f in report_of("millis", event_time_unit="ms").findings if f.level != "warn"]


def test_wall_clock_and_instants_of_the_same_events_make_the_same_splits():
    naive, aware = ids_of(view_of("naive")), ids_of(view_of("aware"))
    assert naive == aware
    assert sum(map(len, naive.values())) == 12_000


def test_a_date_partition_that_is_spelled_with_a_midnight_is_a_date():
    assert ids_of(view_of("tspart")) == ids_of(view_of("base"))
    assert not report_of("tspart").findings


def test_ids_that_are_floats_in_every_file_are_read(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(CASES / "base", folder)
    for path in folder.rglob("*.parquet"):
        rows = pq.ParquetFile(path).read()
        index = rows.schema.get_field_index("user_id")
        floats = rows.column(index).cast(pa.float64())
        pq.write_table(rows.set_column(index, "user_id", floats), path)
    catalog = catalog_of("base")
    view = open_log(catalog, str(folder), wanted=list(catalog.splits), today=TODAY)
    assert not view.skipped.files
    assert ids_of(view) == ids_of(view_of("base"))


def test_days_of_another_id_type_are_refused_with_files_days_and_rows():
    view = view_of("floatid2")
    (group,) = view.skipped.files
    assert (group.files, group.rows, group.is_estimated) == (6, 2_400, False)
    assert group.days == (date(2026, 10, 2), date(2026, 10, 8))
    losses = {loss.splits: loss for loss in view.skipped.windows}
    recent = ("tune", "valid", "gate")
    assert set(losses) == {("pretrain", "pretrain_valid"), recent}
    assert losses[recent].whole_days == (date(2026, 10, 8),)
    assert (losses[recent].lost, losses[recent].rows) == (1_200, 3_600)
    with pytest.raises(BadLog) as error:
        skipped.refuse_skipped(view.skipped, max_share=1.0, where=view.snapshot.uri)
    for message in (
        "splits 'tune', 'valid', 'gate' lose 1,200 of 3,600 rows",
        "all of 2026-10-08",
        "user_id: double, expected id",
        "region=north/dt=2026-10-02/part-00000.parquet",
        "allow_skipped=true",
    ):
        assert message in str(error.value)


def test_a_loss_without_a_whole_day_is_refused_by_its_share_alone():
    catalog = catalog_of("floatid2")
    flat = {"splits": {"pretrain": {"where": {"region": ["north"]}}}}
    document = catalog.model_dump(mode="json") | flat
    document["log"] |= {"date_key": None, "event_time": None, "partition_keys": ["region"]}
    view = open_log(
        Catalog.model_validate(document), str(CASES / "floatid2"), wanted=["pretrain"], today=TODAY
    )
    (loss,) = view.skipped.windows
    assert (loss.whole_days, loss.share) == ((), 0.2)
    skipped.refuse_skipped(view.skipped, max_share=0.2, where="log")
    with pytest.raises(BadLog, match=r"split 'pretrain' loses 800 of 4,000 rows"):
        skipped.refuse_skipped(view.skipped, max_share=0.19, where="log")


def click_rates(view: LogView) -> dict[str, tuple[float, int]]:
    rates = {}
    for name in ("tune", "valid", "gate"):
        parts = [rows.column("label_click") for rows, _ in view.raw_rows(name)]
        clicks = pa.chunked_array(parts).to_numpy()
        rates[name] = (float(np.mean(clicks)), len(clicks))
    return rates


def test_rows_without_an_id_take_their_place_so_that_slices_keep_their_shares():
    rates, base = click_rates(view_of("nullid")), click_rates(view_of("base"))
    for name, (rate, rows) in rates.items():
        deviation = np.sqrt(0.35 * 0.65 * (1 / rows + 1 / base[name][1]))
        assert abs(rate - base[name][0]) < 4 * deviation
        assert rows == pytest.approx(base[name][1], rel=0.1)
    (finding,) = [f for f in report_of("nullid").findings if "null id" in f.what]
    assert (finding.level, finding.count, finding.column) == ("warn", 7_881, "event_id")


def test_the_clean_log_is_warned_of_nothing():
    view = view_of("base")
    assert not view.findings
    assert not view.skipped.files
    assert not view.skipped.windows
    assert not report_of("base").findings
    assert rows_of(view)["test"] == 2_400
