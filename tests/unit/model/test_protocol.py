"""Both kinds of base are what tuning, the gate and serving need."""

import inspect

import pytest
from torch import nn

from iak.pipeline.model.given import GivenModel
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.protocol import FrozenModel, unwrap_frozen
from iak.pipeline.model.recommender import Recommender
from tests.unit.model.small import small_model


@pytest.mark.parametrize("model", [GivenModel(tasks=2), small_model("cpu")], ids=["given", "own"])
def test_a_base_has_towers_and_represents_rows(model):
    assert isinstance(model.heads, Heads)
    wanted = inspect.signature(FrozenModel.represent).parameters
    assert inspect.signature(type(model).represent).parameters.keys() == wanted.keys()
    assert isinstance(model, GivenModel | Recommender)


def test_a_base_is_found_inside_its_wrappers():
    base = GivenModel(tasks=2)
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module.module = base
    assert unwrap_frozen(wrapped) is unwrap_frozen(base) is base
