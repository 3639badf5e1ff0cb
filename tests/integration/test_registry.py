"""A night is promoted and judged by its alias, and the next night starts from it."""

import json

import pytest

from iak.jobs import cli
from iak.pipeline.publish.bundle import read_manifest
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.record import RunRecord
from iak.schemas.registry import bundle_digest
from tests.faults.test_kill import FINETUNE, PRETRAIN, write_catalog
from tests.integration.small_log import write_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OPEN_GATE = [
    "gate.z=0", "gate.min_negatives=5", "gate.auc_margin=1", "gate.logloss_margin=9",
    "gate.calibration_margin=9",
]  # fmt: skip


def commands(place):
    common = ["workers=1", "device=cpu", f"catalog={place / 'catalog.toml'}"]
    common.append(f"data_root={place / 'log'}")
    base, registry = f"base={place / 'R1'}", place / "registry"
    night = ["finetune", *common, *FINETUNE, *OPEN_GATE, base]
    judge = ["evaluate", *common, base]
    return [
        ["pretrain", *common, *PRETRAIN, f"run_dir={place / 'R1'}"],
        [*night, f"run_dir={place / 'R2'}"],
        ["registry", "promote", f"run={place / 'R2'}", f"registry={registry}"],
        [*judge, f"bundles={place / 'R2'}", f"run_dir={place / 'E1'}"],
        [*judge, f"bundles=registry:{registry}@champion", f"run_dir={place / 'E2'}"],
        [*night, f"live=registry:{registry}@champion", f"run_dir={place / 'R3'}"],
        ["registry", "promote", f"run={place / 'R3'}", f"registry={registry}", "force=true"],
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    write_log(folder / "log")
    write_catalog(folder / "catalog.toml")
    for words in commands(folder):
        assert cli.run(words) in (0, 4), words
    return folder


def test_bundles_of_an_alias_are_judged_as_those_of_their_run(place):
    whole = read_index(place / "R2" / "bundles").bundles
    named = read_index(place / "E2" / "pinned" / "bundles").bundles
    published = [entry for entry in whole if entry.published]
    assert named == published
    if len(published) == len(whole):
        one, other = (
            json.loads((place / name / "metrics.json").read_bytes()) for name in ("E1", "E2")
        )
        assert one == other


def test_the_next_night_starts_from_what_the_alias_means_and_names_it_as_parent(place):
    first = read_index(place / "R2" / "bundles").bundles
    parents = {
        entry.folder: bundle_digest(read_manifest(place / "R2" / "bundles" / entry.folder))
        for entry in first
        if entry.published
    }
    assert parents
    record = RunRecord.model_validate_json((place / "R3" / "record.json").read_bytes())
    assert len(record.result["live"]) == len(parents)
    head = read_head(FolderStore(place / "registry"))
    assert head.generation == 2
    for folder, pointer in head.pointers["champion"].items():
        lineage = read_entry(FolderStore(place / "registry"), pointer.stored).lineage
        assert lineage.run == str((place / "R3").resolve())
        assert lineage.parent == parents.get(folder)
        assert lineage.record_sha256 == record.record_sha256
