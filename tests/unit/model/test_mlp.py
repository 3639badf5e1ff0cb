import pytest
import torch
from torch import nn

from iak.pipeline.base.dense_parts import build_trunk
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.mlp import Mlp
from iak.schemas.job import ModelSpec

INPUTS = {"embeddings": [4], "numbers": 1, "tasks": 2}


def test_h_is_linear_and_relu_once_a_width():
    trunk = Mlp(width=5, mlp=[7, 6], expert_width=3, tasks=2)
    first, second = (m for m in trunk.modules() if isinstance(m, nn.Linear))
    x_BX = torch.randn(4, 5)
    torch.testing.assert_close(trunk(x_BX), second(first(x_BX).relu()).relu())
    assert trunk(x_BX).shape == (4, trunk.out_width)


def test_h_itself_is_never_dropped():
    trunk = Mlp(width=5, mlp=[6], expert_width=3, tasks=2, dropout=0.9)
    x_BX = torch.randn(4, 5)
    assert torch.equal(trunk(x_BX), trunk(x_BX))
    deeper = Mlp(width=5, mlp=[64, 6], expert_width=3, tasks=2, dropout=0.5)
    assert not torch.equal(deeper(x_BX), deeper(x_BX))


@pytest.mark.parametrize("mlp", [(5,), (6, 5)])
def test_widths_that_do_not_agree_are_refused_with_what_to_do(mlp):
    spec = ModelSpec(trunk="mlp", mlp=mlp, expert_width=3)
    with pytest.raises(BadRequest, match=r"2 tasks of expert_width 3 read 6 units.*model\.mlp"):
        build_trunk(spec, **INPUTS)


def test_a_spec_chooses_its_trunk():
    assert isinstance(build_trunk(ModelSpec(), **INPUTS), DcnMmoe)
    plain = ModelSpec(trunk="mlp", mlp=(8, 4), expert_width=2)
    assert isinstance(build_trunk(plain, **INPUTS), Mlp)
