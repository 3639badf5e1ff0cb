"""The plan of a night: which day it is of, what trains, and that planning changes nothing."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.nightly.history import History
from iak.pipeline.runs.nightly_plan import base_of, changed_days, plan_night
from iak.schemas.night import RefreshResult
from tests.builders import draw_rows, partition, write_file
from tests.unit.nightly.nights import record
from tests.unit.runs.platform import NOW, write_platform

LAST = date(2026, 10, 3)


@pytest.fixture
def spec(tmp_path):
    return write_platform(tmp_path)


def planned(spec, **changes):
    return plan_night(spec, [], **({"asked": None, "now": NOW} | changes))


def folder(spec, region, day):
    return Path(spec.data_root) / "events" / partition(region, day)


def choices(plan):
    return {decision.name: decision.choice for decision in plan.decisions}


def test_a_night_is_of_the_last_complete_day(spec):
    plan = planned(spec)
    assert plan.night == LAST
    assert [(w.first, w.last) for w in plan.windows] == [(LAST - timedelta(days=1), LAST)]
    assert choices(plan) == dict.fromkeys(["pooled", "region=hangzhou", "region=ningbo"], "train")
    assert set(plan.trained) == set(choices(plan))
    assert plan.live == {}
    assert plan.paths["region=ningbo"] == ("pooled",)


def test_a_night_after_the_logs_last_day_says_that_it_has_no_row(spec):
    later = LAST + timedelta(days=60)
    plan = planned(spec, asked=later, now=NOW + timedelta(days=60))
    assert not plan.decisions
    assert plan.notices == (
        f"no domain is tuned: no file has rows from {later - timedelta(days=1)} to {later}, the "
        f"days that this night reads; the log's first day is 2026-10-01, its last {LAST}. Name "
        "another night by date=",
    )
    assert not planned(spec).notices


def test_the_same_night_has_the_same_id_and_another_log_another(spec):
    first = planned(spec)
    assert planned(spec, now=NOW + timedelta(hours=5)).id == first.id
    path = next(folder(spec, "ningbo", "2026-10-03").glob("*.parquet"))
    write_file(path, draw_rows(60, seed=9))
    assert planned(spec).id != first.id


def test_planning_changes_nothing(spec, tmp_path):
    def tree():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    before = tree()
    planned(spec)
    assert tree() == before
    assert not (tmp_path / "registry").exists()


def test_a_day_without_its_marker_is_not_complete_yet(spec):
    for region in ("hangzhou", "ningbo"):
        (folder(spec, region, "2026-10-03") / "_SUCCESS").unlink()
    assert planned(spec).night == date(2026, 10, 2)


def test_a_partition_that_is_late_holds_its_own_domain_alone(spec):
    (folder(spec, "ningbo", "2026-10-03") / "_SUCCESS").unlink()
    plan = planned(spec, asked=LAST)
    assert choices(plan)["region=ningbo"] == "hold"
    assert choices(plan)["region=hangzhou"] == "train"
    assert [day.partition for day in plan.days if day.holds] == [[("region", "ningbo")]]


def test_a_log_that_changes_after_the_plan_is_noticed(spec):
    plan = planned(spec)
    assert changed_days(spec, plan) == []
    path = next(folder(spec, "ningbo", "2026-10-02").glob("*.parquet"))
    write_file(path, draw_rows(60, seed=9))
    (changed,) = changed_days(spec, plan)
    assert (changed.partition, changed.day) == ([("region", "ningbo")], date(2026, 10, 2))
    path.unlink()
    assert len(changed_days(spec, plan)) == 1, "a day that is gone has changed"


def test_an_empty_log_has_no_night(spec):
    for path in Path(spec.data_root).rglob("*.parquet"):
        path.unlink()
    with pytest.raises((BadLog, BadRequest), match=str(Path(spec.data_root).name)):
        planned(spec)


def test_without_a_complete_day_it_says_what_makes_one(spec):
    for marker in Path(spec.data_root).rglob("_SUCCESS"):
        marker.unlink()
    needing = spec.model_copy(
        update={"ready": spec.ready.model_copy(update={"needs_marker": True})}
    )
    with pytest.raises(BadLog, match="most partitions of a day must have _SUCCESS"):
        planned(needing)


def refreshed(back, run_dir, *, published=True):
    refresh = RefreshResult(reason="old", published=published, run_dir=run_dir)
    return record(back, refresh=refresh)


@pytest.mark.parametrize(
    ("nights", "base"),
    [
        ([], "R1"),
        ([record(1)], "R1"),
        ([refreshed(2, "older"), refreshed(1, "newer")], "newer"),
        ([refreshed(2, "older"), refreshed(1, "worse", published=False)], "older"),
    ],
    ids=["first night", "no refresh", "newest", "the child was no better"],
)
def test_a_night_freezes_the_newest_base_that_a_refresh_published(spec, nights, base):
    asked = spec.model_copy(update={"base": Path("R1")})
    history = History(nights, until=nights[-1].night if nights else LAST)
    assert base_of(asked, history) == Path(base)
