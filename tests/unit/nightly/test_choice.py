import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.nightly.choice import Candidate, Request, choose
from iak.pipeline.nightly.history import History
from iak.schemas.nightly import BudgetSpec, ChoiceSpec
from tests.unit.nightly.nights import (
    BASE,
    IN_A,
    IN_B,
    NIGHT,
    POOLED,
    A,
    B,
    day,
    domain_night,
    record,
    seen,
)

DAYS = [seen(partition, back) for partition in (A, B) for back in range(3)]


def candidate(domain=IN_A, partition=A, rows=100, **fields):
    level = "domain" if domain.pairs else "pooled"
    of_days = {(partition, day(back)): rows for back in range(3)}
    return Candidate(
        domain=domain, level=level, rows=of_days,
        **{"floor": 1, "live_since": None, **fields},
    )  # fmt: skip


BOTH = (candidate(IN_A, A), candidate(IN_B, B))


def decided(candidates, records=(), days=DAYS, *, choice=None, budget=None, base=BASE):
    request = Request(
        night=NIGHT,
        base=base,
        choice=ChoiceSpec(**choice or {}),
        budget=BudgetSpec(**budget or {}),
        tuned_share=1.0,
    )
    done = choose(candidates, days, History(records, until=NIGHT), request)
    return {decision.name: decision for decision in done}


def one(**fields):
    return decided([candidate()], **fields)["region=a"]


def yesterday(days=DAYS[1:3], **night):
    """A night that read all but the newest day of partition a."""
    return record(1, days=days, domains=[domain_night(IN_A, **night)])


def test_a_domain_that_no_night_has_tuned_trains_on_all_its_rows():
    found = one()
    assert (found.choice, found.new_rows, found.window_rows) == ("train", 300, 300)
    assert "no night has tuned it" in found.reason


def test_new_rows_are_those_of_days_that_the_last_tuning_did_not_read():
    found = one(records=[yesterday()])
    assert (found.choice, found.new_rows) == ("train", 100)
    assert "100 new rows since 2026-10-27" in found.reason


def test_a_day_whose_content_is_another_counts_as_new():
    before = [seen(A, 1), seen(A, 2, content="as it was before")]
    assert one(records=[yesterday(before)]).new_rows == 200


def test_a_domain_without_enough_new_rows_waits():
    found = one(records=[yesterday()], choice={"min_new_rows": 101})
    assert found.choice == "wait"
    assert found.reason == "100 new rows since 2026-10-27, fewer than 101"
    nothing_new = one(records=[record(0, days=DAYS, domains=[domain_night(IN_A)])])
    assert (nothing_new.choice, nothing_new.new_rows) == ("wait", 0)


def test_age_and_drift_train_a_domain_with_few_new_rows():
    few = {"records": [yesterday()], "choice": {"min_new_rows": 500, "max_age_days": 3}}
    old = decided([candidate(live_since=day(3))], **few)["region=a"]
    assert (old.choice, old.age_days) == ("train", 3)
    moved = decided([candidate(live_since=day(1), drift=0.2)], **few)["region=a"]
    assert moved.choice == "train"
    assert "moved by 0.20" in moved.reason
    still = decided([candidate(live_since=day(1), drift=0.05)], **few)["region=a"]
    assert still.choice == "wait"


def test_a_tuning_that_broke_is_tried_again_and_does_not_use_up_its_rows():
    found = one(records=[yesterday(outcome="failed")])
    assert (found.choice, found.new_rows) == ("train", 300)
    assert "failed on 2026-10-27" in found.reason


def test_a_verdict_that_held_is_named():
    assert "when the gate held it" in one(records=[yesterday(outcome="held")]).reason


def test_nights_on_another_base_do_not_count():
    assert "no night has tuned it" in one(records=[yesterday()], base="c" * 64).reason


def test_a_domain_below_its_floor_waits():
    found = decided([candidate(floor=301)])["region=a"]
    assert found.choice == "wait"
    assert "fewer than its floor of 301" in found.reason


def test_a_kernel_of_later_days_is_not_replaced_by_one_of_earlier_days():
    found = decided([candidate(live_since=day(-1))])["region=a"]
    assert found.choice == "wait"
    assert "later days, until 2026-10-29" in found.reason


def test_a_held_partition_holds_its_domains_and_takes_its_rows_from_the_others():
    days = [*DAYS[1:], seen(A, 0, state="open", holds=True)]
    shared = {**BOTH[0].rows, **BOTH[1].rows}
    pooled = Candidate(domain=POOLED, level="pooled", rows=shared, floor=1, live_since=None)
    found = decided([*BOTH, pooled], days=days)
    assert (found["region=a"].choice, found["region=a"].reason) == ("hold", "as it was seen")
    assert found["region=b"].choice == "train"
    assert found["pooled"].new_rows == 300


def test_a_kernel_above_waits_for_data_where_every_partition_is_held():
    days = [*DAYS[1:], seen(A, 0, state="absent", holds=True)]
    found = decided([candidate(POOLED, A)], days=days)["pooled"]
    assert (found.choice, found.reason) == ("hold", "every partition that it has rows of is held")


def test_only_named_domains_train_and_the_pooled_kernel_with_them():
    pooled = candidate(POOLED, A)
    nights = [record(0, days=DAYS, domains=[domain_night(POOLED)])]
    found = decided([*BOTH, pooled], nights, choice={"domains": ["region=b"]})
    assert [found[n].choice for n in ("region=a", "region=b", "pooled")] == [
        "wait",
        "train",
        "train",
    ]
    alone = decided([BOTH[0], pooled], nights, choice={"domains": ["region=b"]})
    assert {decision.choice for decision in alone.values()} == {"wait"}


def test_a_budget_is_spent_on_the_domains_of_most_worth():
    records = [
        record(2, days=(), domains=[domain_night(IN_A, gain=0.001), domain_night(IN_B, gain=0.1)])
    ]
    found = decided(BOTH, records, budget={"rows": 400})
    assert list(found) == ["region=b", "region=a"]
    assert [d.choice for d in found.values()] == ["train", "wait"]
    assert "not within the budget of 400 rows" in found["region=a"].reason


def test_minutes_are_rows_at_the_rate_of_the_night_before():
    records = [record(2, domains=(), rows_tuned=600, timings_s={"tune": 60.0})]
    assert decided(BOTH, records, budget={"minutes": 1})["region=a"].choice == "train"
    found = decided(BOTH, records, budget={"minutes": 0.9})
    assert sorted(d.choice for d in found.values()) == ["train", "wait"]


def test_without_a_night_before_minutes_bound_nothing():
    assert {d.choice for d in decided(BOTH, budget={"minutes": 0.01}).values()} == {"train"}


@given(
    rows=st.lists(st.integers(1, 1_000), min_size=1, max_size=12),
    most=st.integers(1, 5_000),
)
def test_what_trains_fits_the_budget_and_is_worth_more_than_what_waits(rows, most):
    domains = [candidate(type(IN_A)((("region", str(n)),)), A, r) for n, r in enumerate(rows)]
    found = decided(domains, budget={"rows": most}).values()
    trained = [d for d in found if d.choice == "train"]
    assert trained
    assert len(trained) == 1 or sum(d.window_rows for d in trained) <= most
    first_waiting = next((d for d in found if d.choice == "wait"), None)
    if first_waiting is not None:
        fitted = [d for d in trained if d.worth >= first_waiting.worth]
        assert sum(d.window_rows for d in fitted) + first_waiting.window_rows > most


@pytest.mark.parametrize("later", [True, False])
def test_a_night_looks_back_on_no_later_one(later):
    records = [record(-1 if later else 0, days=DAYS, domains=[domain_night(IN_A)])]
    assert (one(records=records).choice == "train") is later
