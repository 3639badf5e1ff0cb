"""A factory and its weights: built, compared name by name, and refused by what is wrong."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import torch as safetensors_torch

from iak.pipeline.base import adopted_module
from iak.pipeline.base.adopted_module import build_module, load_weights, read_weights
from iak.pipeline.errors import BadRequest
from tests import plain_dlrm


def weights():
    torch.manual_seed(7)
    return plain_dlrm.Dlrm().state_dict()


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("tests.nowhere:build", "cannot build the module: ModuleNotFoundError"),
        ("tests.plain_dlrm:nothing", "cannot build the module: AttributeError"),
        ("tests.plain_dlrm:train", "cannot build the module: TypeError"),
        ("tests.plain_dlrm:build_without_tail", "without units, represent, tail"),
    ],
)
def test_a_wrong_factory_is_refused(factory, says):
    with pytest.raises(BadRequest, match=says):
        build_module(factory)


def test_the_source_of_a_factory_is_that_of_its_file():
    module, source = build_module("tests.plain_dlrm:build")
    assert isinstance(module, plain_dlrm.Adopted)
    assert source == hashlib.sha256(Path(plain_dlrm.__file__).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("top.0.bias"), r"missing: top\.0\.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda w: w.update({"users.weight": torch.zeros(9, 8)}),
            r"of another shape: users\.weight \[9, 8\], the module has \[60, 8\]",
        ),
    ],
)
def test_weights_that_are_not_the_modules_are_named(change, says):
    given = weights()
    change(given)
    with pytest.raises(BadRequest, match=says):
        load_weights(plain_dlrm.build(), given, where="model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_weights_of_both_kinds_are_read(tmp_path, name):
    write = torch.save if name.endswith(".pt") else safetensors_torch.save_file
    write(weights(), tmp_path / name)
    module = plain_dlrm.build()
    load_weights(module, read_weights(tmp_path / name), where=name)
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
    entry = adopted_module.write_weights(module, tmp_path)
    data = (tmp_path / entry.path).read_bytes()
    assert (entry.sha256, entry.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    written = safetensors_torch.load(data)
    assert torch.equal(written["items.weight"], written["users.weight"][: plain_dlrm.ITEMS])
