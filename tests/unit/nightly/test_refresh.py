import pytest

from iak.pipeline.nightly.history import History
from iak.pipeline.nightly.refresh import refresh_reason
from iak.schemas.nightly import RefreshSpec
from tests.unit.nightly.nights import BASE, IN_A, IN_B, NIGHT, POOLED, domain_night, record


def reason(spec, *, age=9, unseen=None, records=(), base=BASE):
    return refresh_reason(
        RefreshSpec(**spec) if spec is not None else None,
        night=NIGHT,
        base_age_days=age,
        unseen=unseen or {},
        history=History(records, until=NIGHT),
        base=base,
    )


def judged(*gains, back=1):
    domains = [
        domain_night(domain, gain=gain)
        for domain, gain in zip((POOLED, IN_A, IN_B), gains, strict=False)
    ]
    return record(back, domains=domains)


@pytest.mark.parametrize(
    ("spec", "facts", "words"),
    [
        ({"dates": [NIGHT]}, {}, "refresh.dates names 2026-10-28"),
        ({"age_days": 9}, {}, "9 days old; 9 are allowed"),
        (
            {"unseen_share": 0.1},
            {"unseen": {"user": 0.05, "item": 0.1}},
            "10.0% of the ids of item",
        ),
        ({"gain_below": 0.01}, {"records": [judged(0.02, 0.005, 0.001)]}, "gained 0.00500 nats"),
    ],
    ids=["date", "age", "unseen", "gain"],
)
def test_a_base_is_due_by_each_of_its_reasons(spec, facts, words):
    assert words in reason(spec, **facts)


@pytest.mark.parametrize(
    ("spec", "facts"),
    [
        (None, {}),
        ({}, {"unseen": {"item": 0.9}, "records": [judged(0.0)]}),
        ({"age_days": 10}, {}),
        ({"unseen_share": 0.2}, {"unseen": {"item": 0.1}}),
        ({"gain_below": 0.01}, {"records": [judged(0.02, 0.03)]}),
        ({"gain_below": 0.01}, {}),
        ({"gain_below": 0.01}, {"records": [judged(0.0)], "base": "c" * 64}),
        ({"dates": [NIGHT]}, {"age": 0}),
    ],
    ids=["never", "no reason", "young", "few", "gains", "no night", "another base", "same day"],
)  # fmt: skip
def test_a_base_that_is_not_due_stays(spec, facts):
    assert reason(spec, **facts) is None


def test_the_newest_night_that_tuned_counts():
    nights = [judged(0.0, back=3), judged(0.05, back=2), record(1, run_dir=None)]
    assert reason({"gain_below": 0.01}, records=nights) is None
