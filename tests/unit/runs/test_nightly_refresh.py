"""A refresh learns from the days since the base's own, and from no row that judges kernels."""

from datetime import date
from types import SimpleNamespace

import pytest

from iak.pipeline.base.published_base import open_base
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import silent
from iak.pipeline.runs import nightly_refresh
from iak.pipeline.runs.nightly_plan import plan_night
from iak.pipeline.runs.nightly_refresh import base_age_days, base_days, refresh_base
from iak.pipeline.runs.record import AlreadyFinished
from tests.unit.runs.platform import NOW, write_platform

NIGHT = date(2026, 10, 3)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    return write_platform(tmp_path_factory.mktemp("platform"))


def refreshed(spec, run_dir, monkeypatch, answer):
    """Refresh the platform's base; `answer` plays the pre-training."""
    plan = plan_night(spec, [], asked=None, now=NOW)
    monkeypatch.setattr(nightly_refresh, "pretrain_base", answer)
    return refresh_base(
        spec, plan.catalog, plan.base, spec.base, run_dir, night=NIGHT, launcher=None, report=silent
    )


def test_a_base_says_which_days_it_knows(platform):
    base = open_base(platform.base)
    assert base_days(base) == (date(2026, 9, 20), date(2026, 10, 1))
    assert base_age_days(base, NIGHT) == 2
    assert base_age_days(base, date(2026, 9, 25)) == 0, "no base is younger than its night"


def test_a_base_that_does_not_say_cannot_be_refreshed(tmp_path, monkeypatch):
    spec = write_platform(tmp_path, base_days=None)
    assert base_days(open_base(spec.base)) is None
    assert base_age_days(open_base(spec.base), NIGHT) is None
    with pytest.raises(BadRequest, match="does not say which days"):
        refreshed(spec, tmp_path / "refresh", monkeypatch, None)


def test_it_learns_from_the_days_since_its_own(platform, tmp_path, monkeypatch):
    seen = {}

    def pretrain(asked, catalog, *_):
        seen.update(asked=asked, splits=catalog.splits)
        return SimpleNamespace(manifest="a manifest")

    assert refreshed(platform, tmp_path, monkeypatch, pretrain) is True
    days = {name: split.dates for name, split in seen["splits"].items()}
    since = (date(2026, 10, 2), NIGHT)
    assert days == {"pretrain": since, "pretrain_valid": since}
    assert seen["asked"].from_ == platform.base
    assert "table:user_id:grown" in seen["asked"].allow


def test_rows_that_judge_kernels_stay_out(platform, tmp_path, monkeypatch):
    plan = plan_night(platform, [], asked=None, now=NOW)
    seen = {}

    def pretrain(_, catalog, *__):
        seen.update(catalog.splits)
        return SimpleNamespace(manifest=None)

    refreshed(platform, tmp_path, monkeypatch, pretrain)
    slices = {name: split.slice for name, split in plan.catalog.splits.items()}
    assert seen["pretrain"].slice == slices["tune"]
    assert seen["pretrain_valid"].slice == slices["valid"]
    assert slices["gate"] not in {split.slice for split in seen.values()}


@pytest.mark.parametrize("has_base", [True, False])
def test_a_refresh_that_is_finished_is_left_as_it_is(platform, tmp_path, monkeypatch, has_base):
    if has_base:
        (tmp_path / "base").mkdir()

    def pretrain(*_):
        raise AlreadyFinished("it is finished")

    assert refreshed(platform, tmp_path, monkeypatch, pretrain) is has_base


def test_a_child_that_was_no_better_is_not_published(platform, tmp_path, monkeypatch):
    answer = lambda *_: SimpleNamespace(manifest=None)  # noqa: E731 - one call
    assert refreshed(platform, tmp_path, monkeypatch, answer) is False
