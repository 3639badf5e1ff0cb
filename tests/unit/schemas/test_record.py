"""What readers of a record need of its settings and its result, whatever verb and version ran."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from iak.schemas.prediction import EvaluationResult
from iak.schemas.record import RunRecord, RunSettings, user_column
from iak.schemas.training import PublishedBaseResult
from iak.schemas.tuning import StandardisationResult, TunedBase


def record(**fields):
    return RunRecord(
        verb="finetune", status="finished", spec_digest="d",
        started_at=datetime(2026, 1, 1, tzinfo=UTC), **{"spec": {}} | fields,
    )  # fmt: skip


def test_settings_of_any_verb_are_read_without_those_that_nobody_needs():
    spec = {
        "base": "runs/R1", "live": None, "workers": 4, "a setting of another version": [1],
        "cache": {"folder": "c", "precision": "bf16"},
    }  # fmt: skip
    settings = record(spec=spec).settings
    assert (settings.base, settings.live, settings.bundles) == ("runs/R1", None, None)
    assert (settings.workers, settings.cache.folder) == (4, "c")


def test_a_record_without_settings_has_the_defaults():
    assert record().settings == RunSettings()
    assert RunSettings().workers == 1


def test_a_result_is_read_as_a_document_with_some_of_its_fields():
    result = {"base_fingerprint": "f", "kernels": [], "a field of another version": 1}
    assert record(result=result).result_as(TunedBase).base_fingerprint == "f"
    assert record(result=result).result_as(PublishedBaseResult).not_published is None


def test_a_field_is_found_under_its_alias():
    read = record(result={"from": "the cache", "digest": "d"}).result_as(StandardisationResult)
    assert read.from_ == "the cache"


def test_a_result_of_another_verb_is_refused():
    with pytest.raises(ValidationError, match="contract"):
        record(result={"kernels": []}).result_as(EvaluationResult)


@pytest.mark.parametrize(
    ("catalog", "column"),
    [
        ({"log": {"name": "shop", "user": "user_id"}, "features": []}, "user_id"),
        ({"log": {"user": None}}, None),
        ({"log": {}}, None),
        ({}, None),
    ],
)
def test_the_user_column_of_any_catalogue_is_found(catalog, column):
    assert user_column(catalog) == column
