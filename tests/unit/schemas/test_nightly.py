"""`nightly.toml`: what stands in it is held to its bounds, and no secret stands in it."""

from datetime import time, timedelta

import pytest
from pydantic import ValidationError

from iak.schemas.nightly import NightlySpec, ScheduleSpec, WindowSpec

NEEDED = {
    "name": "shop",
    "catalog": "planted",
    "data_root": "s3://logs/shop",
    "base": "runs/base",
    "registry": "/registry",
    "nights": "/nights",
}


def nightly(**changes):
    return NightlySpec.model_validate(NEEDED | changes)


def test_six_settings_are_enough_for_a_platform():
    spec = nightly()
    assert (spec.cluster, spec.refresh, spec.budget.rows) == ("local", None, None)
    assert NightlySpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_none_of_the_six_has_a_default(name):
    with pytest.raises(ValidationError, match=name):
        NightlySpec.model_validate({key: value for key, value in NEEDED.items() if key != name})


def test_times_of_toml_become_times():
    spec = nightly(
        ready={"quiet_for": "PT90M"},
        schedule={"time_zone": "Asia/Shanghai", "deadline": "05:30:00"},
    )
    assert spec.ready.quiet_for == timedelta(minutes=90)
    assert spec.schedule.deadline == time(5, 30)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"cluster": "https://me:secret@ray:8265"}, "cluster"),
        ({"cluster": "ray://head:10001"}, "cluster"),
        ({"notify": {"webhook": "https://hooks.example/T0/secret"}}, "notify.webhook"),
        ({"notify": {"webhook": "SECRET=x"}}, "notify.webhook"),
        ({"ready": {"marker": "../_SUCCESS"}}, "ready.marker"),
        ({"ready": {"quiet_for": "P8D"}}, "ready.quiet_for"),
        ({"ready": {"shrunken_below": 1.5}}, "ready.shrunken_below"),
        ({"schedule": {"time_zone": "Asia/Atlantis"}}, "schedule.time_zone"),
        ({"schedule": {"if_busy": "kill"}}, "schedule.if_busy"),
        ({"refresh": {"from_rates": 0}}, "refresh.from_rates"),
        ({"shadow": {"mean_change": 2}}, "shadow.mean_change"),
        ({"shadow": {"mean_change": 0.1, "share": 0}}, "shadow.share"),
        ({"cost": {"currency": "dollars"}}, "cost.currency"),
        ({"deploy": {"image": "iak; rm -rf /"}}, "deploy.image"),
        ({"deploy": {"namespace": "Iak"}}, "deploy.namespace"),
        ({"deploy": {"mount": "iak"}}, "deploy.mount"),
        ({"deploy": {"ok_codes": [0, 1]}}, "deploy.ok_codes"),
        ({"budget": {"minutes": 0}}, "budget.minutes"),
        ({"scratch_every": -1}, "scratch_every"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_no_night_could_follow_is_refused_by_its_setting(changes, where):
    with pytest.raises(ValidationError) as error:
        nightly(**changes)
    places = [".".join(map(str, e["loc"])) for e in error.value.errors()]
    assert any(place.startswith(where) for place in places), places


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ValidationError) as error:
        nightly(registry="s3://key:hunter2@bucket/registry")
    assert "hunter2" not in str(error.value.errors()[0]["msg"])


@pytest.mark.parametrize(("valid", "gate"), [(0.5, 0.5), (0.9, 0.2)])
def test_a_window_leaves_rows_to_tune_on(valid, gate):
    with pytest.raises(ValidationError, match="leave no rows to tune on"):
        WindowSpec(valid=valid, gate=gate)
    assert WindowSpec(valid=valid, gate=(1 - valid) / 2).gate > 0


def test_every_zone_that_the_machine_knows_is_one():
    assert ScheduleSpec(time_zone="Europe/Berlin").time_zone == "Europe/Berlin"
