"""A bundle's identity is what it means; its form is what others need to serve beside it."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from iak.schemas.manifest import BundleManifest
from iak.schemas.registry import Pointer, StoredFile, bundle_digest, form_of
from iak.schemas.registry_job import RegistryDiffSpec, RegistryPromoteSpec
from iak.schemas.verdict import Verdict


def manifest(**changes):
    fields = {
        "name": "region=rome",
        "level": ["region"],
        "domain": {"region": "rome"},
        "base_fingerprint": "f",
        "schema_hash": "s",
        "data_window": {"rows": 9},
        "spec": {"kernel": {"hidden": 8}, "seed": 0},
        "verdict": Verdict(publish=True, reason="no harm", rows=9),
        "versions": {"torch": "2.13.0"},
        "weights_sha256": "a" * 64,
        "weights_digest": "d",
        "shapes": {"w": [2, 3]},
        "created_at": datetime(2026, 11, 20, tzinfo=UTC),
        "manifest_sha256": "b" * 64,
    }
    return BundleManifest.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"weights_sha256": "c" * 64}, True),
        ({"created_at": datetime(2027, 1, 1, tzinfo=UTC)}, True),
        ({"manifest_sha256": "c" * 64}, True),
        ({"weights_digest": "e"}, False),
        ({"base_fingerprint": "g"}, False),
        ({"data_window": {"rows": 10}}, False),
        ({"verdict": Verdict(publish=False, reason="harm", rows=9)}, False),
    ],
)
def test_how_and_when_a_bundle_is_spelled_is_no_part_of_its_identity(changes, is_same):
    assert (bundle_digest(manifest()) == bundle_digest(manifest(**changes))) == is_same


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"spec": {"kernel": {"hidden": 8}, "seed": 7}}, True),
        ({"weights_digest": "e"}, True),
        ({"spec": {"kernel": {"hidden": 16}}}, False),
        ({"shapes": {"w": [2, 4]}}, False),
    ],
)
def test_bundles_of_one_form_have_the_same_shapes_and_kernel_settings(changes, is_same):
    assert (form_of(manifest()) == form_of(manifest(**changes))) == is_same


def test_a_manifest_whose_level_lacks_a_key_is_refused():
    with pytest.raises(ValidationError, match="must list the keys"):
        manifest(level=["city"])


@pytest.mark.parametrize("name", ["../kernel.safetensors", "kernel", ".json", "a/b.json"])
def test_a_stored_file_cannot_leave_its_folder(name):
    with pytest.raises(ValidationError):
        StoredFile(name=name, sha256="a" * 64, bytes=1)


def test_a_pointer_is_named_by_its_domain():
    fields = {
        "bundle": "a" * 64,
        "stored": f"{'a' * 64}-{'0' * 16}",
        "base_fingerprint": "f",
        "form": "b" * 64,
    }
    assert Pointer(domain=[("region", "a/b")], generation=1, **fields).name == "region=a%2Fb"
    assert Pointer(domain=[], generation=1, **fields).name == "pooled"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either run=RUN or source=candidate"),
        ({"run": "runs/1", "source": "candidate"}, "either run=RUN or source=candidate"),
        ({"source": "candidate", "alias": "candidate"}, "are the same pointers"),
    ],
)
def test_a_promotion_has_one_source_and_another_target(fields, message):
    with pytest.raises(ValidationError, match=message):
        RegistryPromoteSpec.model_validate({"registry": "/registry", **fields})


@pytest.mark.parametrize("state", ["champion:0", "champion:", "head", "champion:1x"])
def test_a_state_is_an_alias_now_or_after_a_commit(state):
    assert RegistryDiffSpec(registry="/r", first="candidate:12").first == "candidate:12"
    with pytest.raises(ValidationError):
        RegistryDiffSpec(registry="/r", first=state)
