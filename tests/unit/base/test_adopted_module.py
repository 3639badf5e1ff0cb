"""A factory is called, or refused by what is wrong."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from iak.pipeline.base.adopted_module import build_module, files_of, open_module
from iak.pipeline.base.module_tables import TablesOnWorker
from iak.pipeline.base.module_weights import write_weights
from iak.pipeline.errors import BadRequest
from iak.pipeline.process import Worker
from iak.schemas.manifest import BaseSettings
from iak.schemas.plan import ResolvedPlacement
from tests import plain_dlrm


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


def test_the_source_that_is_allowed_opens_the_base_and_no_other_one(tmp_path):
    module, source = build_module("tests.plain_dlrm:build")
    entry = write_weights(module.state_dict(), tmp_path)
    alone = Worker(rank=0, world=1, device=torch.device("cpu"))
    at = TablesOnWorker(worker=alone, precisions={}, placement=ResolvedPlacement())

    def opened(adopted, allowed=None):
        # A base of an older version: it has no tables, and one file with all weights.
        settings = BaseSettings(factory_source=adopted)
        manifest = SimpleNamespace(files=(entry,), tables=(), settings=settings)
        files = files_of(tmp_path, manifest)
        return open_module("tests.plain_dlrm:build", files, tasks=1, at=at, allowed_source=allowed)

    for model in (opened(source), opened("0" * 64, allowed=source)):
        weights = model.module.state_dict()
        assert all(torch.equal(weights[n], w) for n, w in module.state_dict().items())
    with pytest.raises(BadRequest, match=f'allow it by source = "{source}" in'):
        opened("0" * 64)
    with pytest.raises(BadRequest, match=r"base\.source allows 111111111111\. Restore"):
        opened(source, allowed="1" * 64)
