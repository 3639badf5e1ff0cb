"""A factory is called, or refused by what is wrong."""

import hashlib
from pathlib import Path

import pytest

from iak.pipeline.base.adopted_module import build_module
from iak.pipeline.errors import BadRequest
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
