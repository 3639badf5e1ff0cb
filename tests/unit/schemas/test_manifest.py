"""Manifests: what their identity depends on, and what they refuse."""

import json
import math
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from iak.schemas.job import ModelSpec
from iak.schemas.manifest import BaseManifest, FileEntry, canonical_json, fingerprint_of
from iak.schemas.training import TaskQuality


def base(**changes):
    doc = {
        "kind": "iak-base",
        "format": 2,
        "parent": None,
        "schema_hash": "s",
        "tables": [{"name": "item", "rows": 10, "width": 4, "features": ["item"]}],
        "files": [
            {"path": "item-0.safetensors", "sha256": "a" * 64, "bytes": 160, "dtype": "float32"}
        ],
        "digest": {"item": "ff"},
        "catalog": {"b": 1, "a": 2},
        "spec": {},
        "snapshot": {},
        "versions": {"torch": "2.13.0"},
        "metrics": [{"auc": 0.7}],
        "created_at": "2026-11-20T10:00:00Z",
    } | changes
    return doc | {"fingerprint": fingerprint_of(doc)}


def test_a_base_survives_json():
    manifest = BaseManifest.model_validate(base())
    assert BaseManifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.created_at == datetime(2026, 11, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"created_at": "2027-01-01T00:00:00Z"}, True),
        ({"catalog": {"a": 2, "b": 1}}, True),
        ({"fingerprint": "x"}, True),
        ({"optimizer": [{"path": "optimizer/adam.safetensors"}]}, True),
        ({"digest": {"item": "fe"}}, False),
        ({"parent": "p"}, False),
        ({"metrics": []}, False),
    ],
    ids=["time", "order of keys", "itself", "optimiser's state", "digest", "parent", "metrics"],
)
def test_a_fingerprint_is_of_everything_but_itself_and_the_time(changes, same):
    assert (fingerprint_of(base() | changes) == fingerprint_of(base())) is same


def test_the_settings_of_a_base_are_read_without_those_that_nobody_needs():
    spec = {"model": {"width": 8}, "from": "runs/R0", "data_root": "s3://log", "workers": 2}
    settings = BaseManifest.model_validate(base(spec=spec)).settings
    assert settings.model == ModelSpec(width=8)
    assert (settings.from_, settings.data_root) == ("runs/R0", "s3://log")
    assert BaseManifest.model_validate(base()).settings.model is None


METRICS = [
    {"name": "valid_loss", "value": 0.25},
    TaskQuality(task="ctr", rows=9, positives=2, log_loss=0.5, auc=None).model_dump(mode="json"),
    {"name": "unseen_share", "table": "item", "value": 0.0},
    {"auc": 0.7, "of another version": [1]},
]


def test_metrics_are_written_as_they_were_read():
    written = BaseManifest.model_validate(base(metrics=METRICS)).model_dump(mode="json")["metrics"]
    assert json.dumps(written) == json.dumps(METRICS)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="owner"):
        BaseManifest.model_validate(base(owner="me"))


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", "a\\b"])
def test_a_file_outside_the_base_is_refused(path):
    with pytest.raises(ValidationError, match="stay below the manifest"):
        FileEntry(path=path, sha256="a" * 64, bytes=1, dtype="float32")


def test_not_a_number_has_no_canonical_form():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"auc": math.nan})
