"""Documents of another format are migrated or refused by name, never half read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from iak.pipeline.activations.cache import ActivationCache
from iak.pipeline.errors import BadLog, BadRequest, Corrupt, OtherFormat
from iak.pipeline.formats import current_document, unchanged
from iak.pipeline.runs.record import AlreadyFinished, read_record, run_record
from iak.schemas.job import PretrainSpec
from iak.schemas.manifest import sha256_of
from iak.schemas.plan import PlacementSpec
from iak.schemas.record import RECORD_FORMAT
from tests.builders import run_inputs

REMEDY = "Make it again: iak plan save=FILE"


def current(document, **changes):
    asked = {"kind": "plan", "current": 3, "where": Path("plan.json"), "remedy": REMEDY}
    return current_document(document, **asked | changes)


def test_a_current_document_is_left_as_it_is():
    assert current({"format": 3, "job": "pretrain"}) == {"format": 3, "job": "pretrain"}


def test_a_newer_document_is_refused_with_both_numbers():
    with pytest.raises(OtherFormat, match=r"plan\.json.*format 4.*newer.*format 3"):
        current({"format": 4})


def test_an_older_document_is_refused_with_the_command_that_mends_it():
    with pytest.raises(OtherFormat, match=r"format 1.*older.*iak plan save=FILE"):
        current({"format": 1})


def test_a_document_from_before_the_rule_is_migrated_step_by_step():
    steps = {
        0: unchanged,
        1: lambda document: document | {"workers": document["world"]},
        2: lambda document: {k: v for k, v in document.items() if k != "world"},
    }
    assert current({"world": 2}, migrations=steps) == {"format": 3, "workers": 2}


@pytest.mark.parametrize("number", ["1", True, -1, 1.5, None])
def test_a_format_that_is_no_number_is_refused(number):
    with pytest.raises(OtherFormat, match="not a number"):
        current({"format": number})


def test_a_list_is_no_document():
    with pytest.raises(ValueError, match="holds a list"):
        current([])


def spec(run_dir):
    return PretrainSpec(catalog="planted", data_root="/logs", run_dir=run_dir)


def rewritten(path, **changes):
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def recorded(run_dir):
    with run_record("pretrain", spec(run_dir), run_dir) as record:
        record.settle_inputs(run_inputs())


@pytest.mark.parametrize("number", [None, 1])
def test_a_run_record_of_an_older_format_is_read(tmp_path, number):
    recorded(tmp_path)
    rewritten(tmp_path / "record.json", format=number, record_sha256=None)
    assert read_record(tmp_path).format == RECORD_FORMAT


def older(path, seal=True):
    """A record of format 2: the settings of the placement stand beside the others."""
    document = json.loads(path.read_text()) | {"format": 2}
    document["spec"] |= document["spec"].pop("placement")
    document["spec_digest"] = "0" * 64
    digest = sha256_of(document, without=frozenset({"record_sha256"}))
    path.write_text(json.dumps(document | {"record_sha256": digest if seal else "1" * 64}))


def test_a_run_record_of_flat_settings_is_read_as_the_same_run(tmp_path):
    recorded(tmp_path)
    before = read_record(tmp_path)
    older(tmp_path / "record.json")
    now = read_record(tmp_path)
    assert (now.spec, now.spec_digest) == (before.spec, before.spec_digest)
    with pytest.raises(AlreadyFinished):
        recorded(tmp_path)


def test_an_edited_run_record_of_flat_settings_is_refused(tmp_path):
    recorded(tmp_path)
    older(tmp_path / "record.json", seal=False)
    with pytest.raises(Corrupt, match="was changed after it was written"):
        read_record(tmp_path)


@pytest.mark.parametrize(("may_differ", "is_resumed"), [(("placement",), True), ((), False)])
def test_an_unfinished_run_of_flat_settings_moves_as_a_present_one(
    tmp_path, may_differ, is_resumed
):
    with pytest.raises(BadLog), run_record("pretrain", spec(tmp_path), tmp_path):
        raise BadLog("the log is gone")
    older(tmp_path / "record.json")
    moved = spec(tmp_path).model_copy(update={"placement": PlacementSpec(row_wise_from_rows=7)})
    if is_resumed:
        with run_record("pretrain", moved, tmp_path, may_differ=may_differ) as record:
            record.settle_inputs(run_inputs())
            assert record.before is not None
        return
    with (
        pytest.raises(BadRequest, match=r"placement\.row_wise_from_rows was 10000, is 7"),
        run_record("pretrain", moved, tmp_path, may_differ=may_differ),
    ):
        pytest.fail("another run's folder was opened")


def test_a_run_record_of_a_newer_version_is_refused(tmp_path):
    recorded(tmp_path)
    rewritten(tmp_path / "record.json", format=99)
    with pytest.raises(OtherFormat, match="run record of format 99"):
        read_record(tmp_path)


def test_a_cache_entry_under_this_formats_key_that_claims_another_is_damaged(tmp_path):
    store, a_BA = ActivationCache(tmp_path), torch.ones(3, 2)
    keys = np.arange(6, dtype=np.uint64).reshape(3, 2)
    store.write("scope", keys, a_BA, computed=3)
    store.close()
    (path,) = tmp_path.rglob("*.activations")
    with safe_open(path, framework="pt") as file:
        told, tensors = file.metadata(), {name: file.get_tensor(name) for name in ("a", "keys")}
    save_file(tensors, path, metadata=told | {"format": "0"})
    again = ActivationCache(tmp_path)
    assert not again.read_into("scope", keys, torch.zeros(3, 2))
    assert again.usage.entries_damaged == 1
    assert not path.exists()
