"""`night.json`: a night's document comes back as it was written, and its words are few."""

from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from iak.schemas.night import Decision, DomainNight, NightRecord

ROME = [("region", "rome"), ("slot", "a/b")]


def decision(**changes):
    fields = {"domain": ROME, "level": "domain", "choice": "train", "reason": "9 rows are new"}
    return Decision.model_validate(fields | changes)


def domain(outcome, **changes):
    fields = {
        "decision": decision(),
        "outcome": outcome,
        "sentence": "AUC is no worse",
        "served_by": "own",
    }
    return DomainNight.model_validate(fields | changes)


def night(**changes):
    fields = {
        "id": "0123456789abcdef",
        "name": "shop",
        "night": date(2026, 11, 28),
        "status": "finished",
        "started_at": datetime(2026, 11, 29, 2, 30, tzinfo=UTC),
        "base_fingerprint": "f",
        "base": "/bases/1",
        "registry": "/registry",
    }
    return NightRecord.model_validate(fields | changes)


def test_a_domain_is_named_as_everywhere_else():
    assert decision().name == "region=rome/slot=a%2Fb"
    assert decision(domain=[], level="pooled").name == "pooled"


def test_outcomes_are_counted_the_absent_ones_too():
    outcomes = ("promoted", "held", "promoted")
    assert night(domains=[domain(outcome) for outcome in outcomes]).counts == {
        "promoted": 2,
        "held": 1,
        "failed": 0,
        "waiting": 0,
    }


def test_a_night_survives_json():
    record = night(domains=[domain("promoted", bundle="a" * 64, rate=0.25)], exit_code=0)
    assert NightRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../etc"},
        {"id": "0123"},
        {"status": "done"},
        {"started_at": datetime(2026, 11, 29)},
        {"format": 2},
        {"registry_before": -1},
        {"rows_tuned": -5},
        {"sha256": "abc"},
        {"unknown": 1},
    ],
)
def test_what_no_night_writes_is_no_night(changes):
    with pytest.raises(ValidationError):
        night(**changes)


@pytest.mark.parametrize(
    "changes", [{"choice": "maybe"}, {"level": "city"}, {"new_rows": -1}, {"domain": ["rome"]}]
)
def test_a_decision_has_the_words_that_its_readers_know(changes):
    with pytest.raises(ValidationError):
        decision(**changes)
