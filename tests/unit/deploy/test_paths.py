"""Settings that mean nothing where a night runs are refused, all of them at once."""

from pathlib import Path

import pytest

from iak.pipeline.deploy.paths import (
    refuse_catalog_elsewhere,
    refuse_long_name,
    refuse_lost_paths,
    refuse_relative_paths,
)
from iak.pipeline.errors import BadRequest
from tests.unit.deploy.nights import nights


def test_relative_paths_are_named_all_at_once():
    spec = nights(
        base="runs/base", nights="nights", finetune={"cache": {"folder": "cache"}}, cluster="local"
    )
    with pytest.raises(BadRequest) as refused:
        refuse_relative_paths(spec)
    said = str(refused.value)
    for setting in ("base=runs/base", "nights=nights", "finetune.cache.folder=cache"):
        assert setting in said
    assert "data_root" not in said
    assert "registry" not in said


def test_absolute_paths_and_uris_are_fine_on_a_cluster():
    refuse_relative_paths(nights(base="/somewhere/else", registry="s3://models/shop"))


def test_what_is_on_an_object_store_outlives_a_pod_without_a_volume():
    spec = nights(
        base="s3://models/base", nights="s3://models/nights", deploy={},
        finetune={"cache": {"folder": "s3://models/cache"}}, cluster="local",
    )  # fmt: skip
    refuse_lost_paths(spec)
    refuse_relative_paths(spec)


def test_a_pod_keeps_what_is_on_its_volume():
    refuse_lost_paths(nights())
    with pytest.raises(BadRequest, match=r"base=/elsewhere/base: .* below deploy\.mount=/iak"):
        refuse_lost_paths(nights(base="/elsewhere/base"))


def test_a_folder_whose_name_begins_like_the_mount_is_not_on_it():
    with pytest.raises(BadRequest, match="nights=/iak-old/nights"):
        refuse_lost_paths(nights(nights="/iak-old/nights"))


def test_without_a_volume_only_uris_outlive_a_pod():
    with pytest.raises(BadRequest, match=r"nights=/iak/nights.*volume_claim names none"):
        refuse_lost_paths(nights(deploy={}))


@pytest.mark.parametrize(("length", "is_refused"), [(36, False), (37, True)])
def test_a_name_leaves_room_for_what_kuberay_adds(length, is_refused):
    spec = nights(name="n" * length)
    if not is_refused:
        refuse_long_name(spec)
        return
    with pytest.raises(BadRequest, match="has 41 characters"):
        refuse_long_name(spec)


def test_a_catalogue_travels_beside_the_file():
    file = Path("/conf/nightly.toml")
    refuse_catalog_elsewhere(nights(catalog="shop.toml"), file)
    refuse_catalog_elsewhere(nights(catalog="planted"), file)
    with pytest.raises(BadRequest, match=r"write catalog=shop\.toml"):
        refuse_catalog_elsewhere(nights(catalog="conf/shop.toml"), file)
