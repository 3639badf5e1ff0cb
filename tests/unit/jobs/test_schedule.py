"""Nights one after the other: a range of dates, and the schedule on a clock that the test turns."""

from datetime import UTC, date, datetime, timedelta

import pytest

from iak.jobs.cli import run
from iak.jobs.schedule import Clock, backfill, watch, worst_code
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.report.nights import write_night
from iak.pipeline.runs.record import AlreadyFinished
from iak.schemas.nightly_job import NightlyBackfillSpec, NightlyWatchSpec
from tests.nights import a_night

NIGHTLY = """
name = "shop"
catalog = "planted"
data_root = "/logs"
base = "/base"
registry = "/registry"
nights = "{nights}"
[schedule]
cron = "{cron}"
time_zone = "{zone}"
missed = "{missed}"
[deploy]
retries = 1
"""


def nightly_file(folder, *, cron="30 2 * * *", zone="UTC", missed="in_order"):
    file = folder / "nightly.toml"
    text = NIGHTLY.format(nights=folder / "nights", cron=cron, zone=zone, missed=missed)
    file.write_text(text)
    return file


class Turned:
    """A clock that only sleeping moves, and the nights that ran on it."""

    def __init__(self, start):
        self.now = datetime.fromisoformat(start)
        self.ran = []
        self.codes = {}

    @property
    def clock(self):
        return Clock(now=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds):
        self.now += timedelta(seconds=seconds)

    def run_night(self, night):
        self.ran.append((night, self.now))
        codes = self.codes.get(night)
        return codes.pop(0) if codes else 0

    def watch(self, file, until):
        end = datetime.fromisoformat(until)
        watch(NightlyWatchSpec(file=file), self.run_night, self.clock, lambda: self.now < end)

    @property
    def nights(self):
        return [night for night, _ in self.ran]


def test_every_night_runs_at_its_tick(tmp_path):
    turned = Turned("2026-11-28T12:00Z")
    turned.watch(nightly_file(tmp_path), "2026-12-01T02:30Z")
    assert turned.ran == [
        (date(2026, 11, 28), datetime(2026, 11, 29, 2, 30, tzinfo=UTC)),
        (date(2026, 11, 29), datetime(2026, 11, 30, 2, 30, tzinfo=UTC)),
    ]


@pytest.mark.parametrize(
    ("zone", "start", "until", "nights"),
    [
        ("Europe/Berlin", "2026-03-27T12:00Z", "2026-03-31T00:00Z", [27, 28, 29]),
        ("Europe/Berlin", "2026-10-23T12:00Z", "2026-10-27T00:00Z", [23, 24, 25]),
        ("America/New_York", "2026-03-06T12:00Z", "2026-03-10T00:00Z", [6, 7, 8]),
        ("America/Nuuk", "2026-03-27T12:00Z", "2026-03-30T22:00Z", [26, 27, 28]),
    ],
)
def test_a_changed_clock_neither_doubles_nor_loses_a_night(tmp_path, zone, start, until, nights):
    cron = "30 23 * * *" if zone == "America/Nuuk" else "30 2 * * *"
    turned = Turned(start)
    turned.watch(nightly_file(tmp_path, cron=cron, zone=zone), until)
    assert [night.day for night in turned.nights] == nights


@pytest.mark.parametrize(("missed", "nights"), [("in_order", [26, 27, 28]), ("coalesce", [28])])
def test_missed_nights_come_first(tmp_path, missed, nights):
    file = nightly_file(tmp_path, missed=missed)
    done = a_night(date(2026, 11, 25), domains=1)
    folder = tmp_path / "nights" / "2026-11-25"
    folder.mkdir(parents=True)
    write_night(done, folder)
    turned = Turned("2026-11-29T12:00Z")
    turned.watch(file, "2026-11-29T12:01Z")
    assert [night.day for night in turned.nights] == nights


def test_a_night_that_fails_is_tried_again_and_then_left(tmp_path):
    turned = Turned("2026-11-29T02:00Z")
    turned.codes = {date(2026, 11, 28): [1, 1]}
    turned.watch(nightly_file(tmp_path), "2026-12-01T02:00Z")
    assert turned.nights == [date(2026, 11, 28)] * 2 + [date(2026, 11, 29)]
    assert turned.ran[1][1] - turned.ran[0][1] == timedelta(minutes=10)


def test_an_ordinary_night_is_not_tried_again(tmp_path):
    turned = Turned("2026-11-29T02:00Z")
    turned.codes = {date(2026, 11, 28): [4, 0]}
    turned.watch(nightly_file(tmp_path), "2026-11-29T12:00Z")
    assert turned.nights == [date(2026, 11, 28)]


def test_the_file_is_read_again_and_a_broken_one_is_not_followed(tmp_path, capsys):
    file = nightly_file(tmp_path)
    turned = Turned("2026-11-29T02:00Z")
    moved = nightly_file(tmp_path, cron="0 4 * * *").read_text()
    nightly_file(tmp_path)

    def edit(night):
        file.write_text(moved if night.day == 28 else "[broken")
        return turned.ran.append((night, turned.now)) or 0

    end = datetime(2026, 12, 1, 4, tzinfo=UTC)
    watch(NightlyWatchSpec(file=file), edit, turned.clock, lambda: turned.now < end)
    assert [(night.day, f"{at:%H:%M}") for night, at in turned.ran] == [
        (28, "02:30"),
        (29, "04:00"),
    ]
    assert "its last settings are used" in " ".join(capsys.readouterr().out.split())


def asked(file, nights):
    return NightlyBackfillSpec(file=file, nights=nights)


def test_a_range_runs_in_order_and_says_the_worst(tmp_path):
    turned = Turned("2026-11-29T02:00Z")
    turned.codes = {date(2026, 11, 21): [4]}
    code = backfill(asked(nightly_file(tmp_path), "2026-11-20..2026-11-22"), turned.run_night)
    assert [night.day for night in turned.nights] == [20, 21, 22]
    assert code == 4


def test_a_finished_night_is_passed_and_a_failed_one_ends_the_range(tmp_path):
    ran = []

    def run_night(night):
        ran.append(night.day)
        if night.day == 20:
            raise AlreadyFinished("finished")
        if night.day == 21:
            raise PipelineError("broke")
        return 0

    code = backfill(asked(nightly_file(tmp_path), "2026-11-20..2026-11-22"), run_night)
    assert (ran, code) == ([20, 21], 1)


def test_a_weekly_schedule_has_a_night_a_week(tmp_path):
    turned = Turned("2026-11-29T02:00Z")
    file = nightly_file(tmp_path, cron="30 2 * * 1")
    backfill(asked(file, "2026-11-01..2026-11-15"), turned.run_night)
    assert [night.day for night in turned.nights] == [1, 8, 15]  # Sundays: the day before the tick
    with pytest.raises(BadRequest, match="no night between"):
        backfill(asked(file, "2026-11-02..2026-11-03"), turned.run_night)


@pytest.mark.parametrize(
    ("codes", "worst"),
    [([], 0), ([6, 6], 6), ([0, 6], 0), ([0, 4, 6], 4), ([4, 5, 0], 5), ([5, 1], 1), ([0, 3], 3)],
)
def test_the_worst_code(codes, worst):
    assert worst_code(codes) == worst


@pytest.mark.parametrize(
    "nights", ["2026-11-20", "2026-11-22..2026-11-20", "2026-13-01..2026-13-02"]
)
def test_what_is_no_range_is_refused(tmp_path, nights, capsys):
    assert run(["nightly", "backfill", str(nightly_file(tmp_path)), nights]) == 2
    assert "nights" in capsys.readouterr().err
