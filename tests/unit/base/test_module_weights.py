"""Weights of a module are compared name by name, and refused by what is wrong."""

import hashlib

import pytest
import torch
from safetensors import torch as safetensors_torch

from iak.pipeline.base.module_weights import load_weights, read_weights, write_weights
from iak.pipeline.errors import BadRequest
from tests import plain_dlrm


def weights():
    torch.manual_seed(7)
    return plain_dlrm.Dlrm().state_dict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("top.0.bias"), r"missing: top\.0\.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda w: w.update({"users.weight": torch.zeros(9, 8)}),
            r"of another shape: users\.weight \[9, 8\], the module has \[60, 8\]",
        ),
        (
            lambda w: w.update({"users.weight": torch.zeros(60, 8, dtype=torch.int8)}),
            r"of another type: users\.weight torch\.int8, the module has torch\.float32",
        ),
    ],
)
def test_weights_that_are_not_the_modules_are_named(change, says):
    given = weights()
    change(given)
    with pytest.raises(BadRequest, match=says):
        load_weights(plain_dlrm.build().state_dict(), given, where="model.safetensors")


def test_a_count_takes_no_fractions():
    own = {"seen": torch.tensor(3)}
    says = r"of another type: seen torch\.float32, the module has torch\.int64"
    with pytest.raises(BadRequest, match=says):
        load_weights(own, {"seen": torch.tensor(2.5)}, where="model.safetensors")
    assert own["seen"] == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_floats_of_another_width_are_taken(dtype):
    own = {"bias": torch.zeros(2)}
    load_weights(own, {"bias": torch.tensor([0.5, 2.0], dtype=dtype)}, where="model.safetensors")
    assert own["bias"].tolist() == [0.5, 2.0]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_weights_of_both_kinds_are_read(tmp_path, name):
    write = torch.save if name.endswith(".pt") else safetensors_torch.save_file
    write(weights(), tmp_path / name)
    module = plain_dlrm.build()
    load_weights(module.state_dict(), read_weights(tmp_path / name), where=name)
    assert all(torch.equal(module.state_dict()[n], weight) for n, weight in weights().items())


@pytest.mark.parametrize("content", [b"", b"no weights", None], ids=["empty", "text", "a pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_what_is_no_file_of_tensors_is_refused_and_no_code_runs(tmp_path, name, content):
    if content is None:
        torch.save({"model": plain_dlrm.Dlrm()}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=r"weights=.* cannot be read"):
        read_weights(tmp_path / name)


def test_tied_weights_are_written_whole(tmp_path):
    module = plain_dlrm.build()
    module.items.weight = torch.nn.Parameter(module.users.weight.detach()[: plain_dlrm.ITEMS])
    entry = write_weights(module.state_dict(), tmp_path)
    data = (tmp_path / entry.path).read_bytes()
    assert (entry.sha256, entry.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    written = safetensors_torch.load(data)
    assert torch.equal(written["items.weight"], written["users.weight"][: plain_dlrm.ITEMS])
