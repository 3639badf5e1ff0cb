"""Documents of another format are migrated or refused by name, never half read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from iak.pipeline.activations.cache import Store
from iak.pipeline.errors import OtherFormat
from iak.pipeline.formats import current_document, unchanged
from iak.pipeline.runs.record import read_record, run_record
from iak.schemas.job import PretrainSpec
from iak.schemas.record import RECORD_FORMAT
from tests.builders import run_inputs

MEND = "Make it again: iak plan save=FILE"


def current(document, **changes):
    asked = {"kind": "plan", "current": 3, "where": Path("plan.json"), "mend": MEND}
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
    with pytest.raises(OtherFormat, match="no number"):
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


def test_a_run_record_of_a_newer_version_is_refused(tmp_path):
    recorded(tmp_path)
    rewritten(tmp_path / "record.json", format=99)
    with pytest.raises(OtherFormat, match="run record of format 99"):
        read_record(tmp_path)


def test_a_cache_entry_under_this_formats_key_that_claims_another_is_damaged(tmp_path):
    store, a_BA = Store(tmp_path), torch.ones(3, 2)
    keys = np.arange(6, dtype=np.uint64).reshape(3, 2)
    store.write("scope", keys, a_BA, computed=3)
    store.close()
    (path,) = tmp_path.rglob("*.activations")
    with safe_open(path, framework="pt") as file:
        told, tensors = file.metadata(), {name: file.get_tensor(name) for name in ("a", "keys")}
    save_file(tensors, path, metadata=told | {"format": "0"})
    again = Store(tmp_path)
    assert not again.read_into("scope", keys, torch.zeros(3, 2))
    assert again.usage.entries_damaged == 1
    assert not path.exists()
