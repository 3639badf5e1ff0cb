"""What a night's tuning took, and how its kernels share it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.nightly.outcomes import NightOutcomes
from iak.pipeline.runs.nightly_cost import share_cost, tuning_cost
from iak.schemas.domain import Domain
from iak.schemas.night import TaskWindow, TuningCost
from iak.schemas.record import RunRecord
from iak.schemas.tuning import KernelResult
from tests.unit.nightly.nights import IN_A, IN_B, POOLED, day, domain_night, record
from tests.unit.nightly.test_identity import spec
from tests.unit.runs.platform import kernel, tuning_result

PRICED = spec(cost={"per_worker_hour": 3.6})
NIGHT = record(
    0,
    domains=[domain_night(each) for each in (POOLED, IN_A, IN_B)],
    windows=[TaskWindow(task="ctr", first=day(6), last=day())],
)


def tuned(*, seconds=100.0, workers=2, **result):
    return RunRecord(
        verb="finetune",
        status="finished",
        spec={"workers": workers},
        spec_digest="d",
        started_at=datetime(2026, 10, 29, tzinfo=UTC),
        timings_s={"tune": seconds},
        result=tuning_result(**result).as_json(),
    )


ALL = (kernel("pooled", 100), kernel("region=a", 60), kernel("region=b", 30))


def test_a_worker_s_time_is_charged_for_each_worker():
    spent = tuning_cost(PRICED, NIGHT, tuned(kernels=ALL))
    assert spent.worker_seconds == 200
    assert spent.cost == pytest.approx(0.2)
    assert spent.parameters_per_kernel == 100


def test_rows_count_once_although_the_pooled_kernel_has_them_too():
    assert tuning_cost(PRICED, NIGHT, tuned(kernels=ALL)).rows_tuned == 90
    assert tuning_cost(PRICED, NIGHT, tuned(kernels=ALL[:1])).rows_tuned == 100


def test_rows_from_the_cache_are_the_cache_s_share_of_the_tuning_rows():
    cache = {"rows_read": 75, "rows_computed": 25, "folder": "cache"}
    assert tuning_cost(PRICED, NIGHT, tuned(kernels=ALL, cache=cache)).rows_from_cache == 67
    assert tuning_cost(PRICED, NIGHT, tuned(kernels=ALL)).rows_from_cache == 0


def test_windows_get_the_labels_that_tuning_counted():
    labels = {"known ctr": 90, "positive ctr": 9, "known cvr": 5}
    (window,) = tuning_cost(PRICED, NIGHT, tuned(labels=labels)).windows
    assert (window.rows, window.positives) == (90, 9)


def test_a_night_that_tuned_nothing_cost_nothing():
    assert tuning_cost(PRICED, NIGHT, None) is None
    assert share_cost(NIGHT.domains, NightOutcomes(), None) == NIGHT.domains


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**6), min_size=1))
def test_shares_add_up_to_the_whole(rows):
    domains = [domain_night(Domain((("region", name),))) for name in [*rows, "waiting"]]
    kernels = {
        f"region={name}": KernelResult.model_validate(kernel(f"region={name}", count))
        for name, count in rows.items()
    }
    spent = TuningCost(
        parameters_per_kernel=1, windows=[], rows_tuned=1, rows_from_cache=0, worker_seconds=1000.0,
        cost=7.0,
    )  # fmt: skip
    shared = share_cost(domains, NightOutcomes(kernels=kernels), spent)
    assert sum(domain.cost for domain in shared) == pytest.approx(7)
    assert sum(d.worker_seconds for d in shared) == pytest.approx(1000, abs=0.001 * len(shared))
    assert shared[-1].cost == 0, "a domain that did not train cost something"
    costs = {domain.decision.name: domain.cost for domain in shared}
    assert max(costs, key=costs.get) in {
        f"region={name}" for name, count in rows.items() if count == max(rows.values())
    }
