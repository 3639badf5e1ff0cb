"""Traffic of a night: from events of any kind, from this process's stores, over all attempts."""

import pytest

from iak.pipeline.events import FilesCarried, Notice, StoresUsed
from iak.pipeline.report.nights import read_night
from iak.pipeline.runs import nightly
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_records import night_folder
from iak.pipeline.runs.nightly_traffic import TrafficCounter
from iak.pipeline.storage.store_counter import OF_PROCESS, StoreCounter
from iak.schemas.traffic import Carried, NightTraffic
from tests.unit.runs.platform import NOW, write_platform

CARRIED = FilesCarried(files_received=1, bytes_received=10, files_sent=2, bytes_sent=20)
USED = StoresUsed(objects_read=3, bytes_read=30, objects_written=4, bytes_written=40)


def test_events_and_the_stores_of_this_process_are_added_up_and_taken_once():
    stores, seen = StoreCounter(), []
    counter = TrafficCounter(stores)
    report = counter.counted(seen.append)
    for event in (CARRIED, Notice("a sentence"), dict(USED), dict(USED)):
        report(event)
    stores.count_read(7)
    assert counter.take() == NightTraffic(
        from_workers=Carried(files=1, bytes=10),
        to_workers=Carried(files=2, bytes=20),
        from_stores=Carried(files=7, bytes=67),
        to_stores=Carried(files=8, bytes=80),
    )
    assert counter.take() == NightTraffic()
    assert len(seen) == 4


def test_ways_that_no_file_went_are_left_out():
    assert NightTraffic().by_way() == {}
    assert set(NightTraffic(to_stores=Carried(files=1)).by_way()) == {"to_stores"}


def test_every_attempt_at_a_night_adds_its_traffic(tmp_path, monkeypatch):
    spec = write_platform(tmp_path)

    def carry_and_break(_spec, _catalog, _launcher, report, **_):
        report(CARRIED)
        OF_PROCESS.count_written(5)
        raise RuntimeError("a bug")

    monkeypatch.setattr(nightly, "tune_once", carry_and_break)
    OF_PROCESS.count_read(1_000_000)  # before the night, so not of it
    for attempts in (1, 2):
        with pytest.raises(RuntimeError):
            run_night(spec, None, NightRequest(clock=lambda: NOW))
        planned = run_night(spec, None, NightRequest(dry_run=True, clock=lambda: NOW))
        record = read_night(night_folder(spec.nights, planned))
        assert record.traffic == NightTraffic(
            from_workers=Carried(files=attempts, bytes=10 * attempts),
            to_workers=Carried(files=2 * attempts, bytes=20 * attempts),
            to_stores=Carried(files=attempts, bytes=5 * attempts),
        )
