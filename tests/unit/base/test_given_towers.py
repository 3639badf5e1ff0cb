"""Towers of a base of columns are given as a file, whole, or refused by what is wrong."""

import pytest
import torch
from safetensors import torch as safetensors_torch

from iak.pipeline.base.given_towers import adopt_given, given_model
from iak.pipeline.errors import BadRequest
from tests.given_log import given_catalog, given_document, towers_catalog, towers_weights


def written(folder, weights):
    safetensors_torch.save_file(weights, folder / "towers.safetensors")
    return folder / "towers.safetensors"


def test_the_towers_have_the_weights_of_the_file(tmp_path):
    towers = adopt_given(towers_catalog(), written(tmp_path, towers_weights())).towers
    tensors = towers.named_tensors(["ctr", "cvr"])
    assert tensors.keys() == towers_weights().keys()
    assert all(torch.equal(tensors[name], weight) for name, weight in towers_weights().items())


def test_columns_alone_have_none():
    assert adopt_given(given_catalog(), None).towers is None
    flat = given_catalog(base=given_document()["base"] | {"towers": []})
    assert list(given_model(flat).towers.named_tensors(["ctr", "cvr"])) == [
        "ctr.0.weight", "ctr.0.bias", "cvr.0.weight", "cvr.0.bias",
    ]  # fmt: skip


def test_a_file_without_towers_and_towers_without_a_file_are_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"declares no towers for them.*towers = \[\]"):
        adopt_given(given_catalog(), written(tmp_path, towers_weights()))
    with pytest.raises(BadRequest, match=r"weights=towers\.safetensors with TASK\.0\.weight"):
        adopt_given(towers_catalog(), None)


def test_towers_of_another_shape_are_named(tmp_path):
    weights = towers_weights() | {"ctr.0.weight": torch.zeros(2, 7)}
    del weights["cvr.1.bias"]
    says = (
        r"missing: cvr\.1\.bias; of another shape: ctr\.0\.weight \[2, 7\], the module has \[2, 3\]"
    )
    with pytest.raises(BadRequest, match=says):
        adopt_given(towers_catalog(), written(tmp_path, weights))
