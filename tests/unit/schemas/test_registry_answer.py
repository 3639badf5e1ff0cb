"""Answers of `iak registry` have the fields that were asked for, and no others."""

from datetime import UTC, datetime

from iak.schemas.registry import Commit
from iak.schemas.registry_answer import DomainAnswer, HistoryAnswer, PointersAnswer


def test_an_alias_that_was_not_asked_for_is_left_out():
    answer = PointersAnswer(registry="r", generation=None, champion=[])
    assert answer.as_json() == {"registry": "r", "generation": None, "champion": []}
    assert DomainAnswer(registry="r", domain="pooled").as_json() == {
        "registry": "r", "domain": "pooled",
    }  # fmt: skip


def test_a_history_leaves_out_the_pointers_after_each_commit():
    commit = Commit(
        generation=1, parent_sha256=None, action="promote", by="me", token="0" * 16, pointers={},
        at=datetime(2026, 10, 1, tzinfo=UTC), sha256="0" * 64,
    )  # fmt: skip
    document = HistoryAnswer(registry="r", commits=[commit], chains=[]).as_json()
    expected = commit.model_dump(mode="json", exclude={"pointers"})
    assert document == {"registry": "r", "commits": [expected], "chains": []}
