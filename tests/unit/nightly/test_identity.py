from datetime import time
from pathlib import Path

import pytest

from iak.pipeline.nightly.identity import night_id, with_overrides
from iak.schemas.nightly import NightlySpec
from tests.builders import small_catalog
from tests.unit.nightly.nights import BASE, IN_A, IN_B, NIGHT, day, seen

DAYS = [seen(back=back) for back in range(3)]


def spec(**changes):
    fields = {
        "name": "shop", "catalog": "planted", "data_root": "/logs", "base": "R1",
        "registry": "registry", "nights": "nights",
    }  # fmt: skip
    return NightlySpec.model_validate(fields | changes)


def identity(changes=None, *, catalog=None, night=NIGHT, base=BASE, domains=(IN_A,), days=DAYS):
    return night_id(
        spec(**changes or {}),
        catalog or small_catalog(),
        night=night,
        base=base,
        domains=domains,
        days=days,
    )


@pytest.mark.parametrize(
    "other",
    [
        {"base": "c" * 64},
        {"domains": (IN_A, IN_B)},
        {"night": day(1)},
        {"days": DAYS[:2]},
        {"days": [*DAYS[:2], seen(back=2, content="rewritten")]},
        {"changes": {"finetune": {"kernel": {"code": 8}}}},
        {"changes": {"budget": {"rows": 9}}},
        {"changes": {"workers": {"seed": 1}}},
        {"catalog": small_catalog(domain__min_rows=7)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_night_has_another_id(other):
    assert identity(**other) != identity()


@pytest.mark.parametrize(
    "same",
    [
        {"changes": {"nights": "elsewhere", "registry": "s3://bucket/x", "name": "other"}},
        {"changes": {"workers": {"workers": 7}, "cluster": "http://ray:8265"}},
        {"changes": {"schedule": {"cron": "0 1 * * *"}, "cost": {"per_worker_hour": 3}}},
        {"days": DAYS[::-1]},
        {"catalog": small_catalog(splits={"test": {"days": [-1, -1]}})},
    ],
    ids=lambda same: next(iter(same)),
)
def test_where_and_how_a_night_runs_is_no_part_of_it(same):
    assert identity(**same) == identity()


def test_the_command_line_wins_over_the_file():
    asked = spec(budget={"rows": 5, "minutes": 2}, schedule={"deadline": "05:30"})
    same = with_overrides(asked, rows=None, minutes=None, deadline=None)
    assert same == asked
    other = with_overrides(asked, rows=7, minutes=None, deadline=time(4))
    assert (other.budget.rows, other.budget.minutes) == (7, 2)
    assert other.schedule.deadline == time(4)
    assert other.nights == Path("nights")
