"""What every trunk has in common, for each name that a setting may choose."""

from typing import get_args

import pytest
import torch
from torch import fx

from iak.pipeline.base.dense_parts import build_trunk
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.pipeline.model.trunks.mlp import Mlp
from iak.pipeline.model.trunks.ple import Ple
from iak.schemas.job import ModelSpec

TRUNKS = {"dcnv2_mmoe": DcnMmoe, "deepfm": DeepFm, "dlrm": Dlrm, "mlp": Mlp, "ple": Ple}
UNITS, TASKS = 9, 2


def built(kind, **changes):
    sizes = {"width": 4, "mlp": (9, 6), "experts": 2, "expert_width": 3}
    spec = ModelSpec(trunk=kind, **sizes | changes)
    torch.manual_seed(0)
    return build_trunk(spec, embeddings=[4, 3], numbers=2, tasks=TASKS)


def test_the_setting_names_every_trunk():
    assert set(TRUNKS) == set(get_args(ModelSpec.model_fields["trunk"].annotation))


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_spec_chooses_its_trunk(kind):
    trunk = built(kind)
    assert type(trunk) is TRUNKS[kind]
    assert trunk(torch.randn(5, UNITS)).shape == (5, trunk.out_width) == (5, 6)


@pytest.mark.parametrize("kind", TRUNKS)
def test_every_parameter_learns(kind):
    trunk = built(kind)
    trunk(torch.randn(256, UNITS)).square().sum().backward()
    stuck = [n for n, p in trunk.named_parameters() if p.grad is None or not p.grad.any()]
    assert stuck == []


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_trunk_can_be_traced(kind):
    """TorchRec's pipeline traces the model."""
    trunk, x_BX = built(kind), torch.randn(5, UNITS)
    assert torch.equal(fx.symbolic_trace(trunk)(x_BX), trunk(x_BX))


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_row_depends_on_no_other_and_none_gives_none(kind):
    trunk, x_BX = built(kind).eval(), torch.randn(5, UNITS)
    torch.testing.assert_close(trunk(x_BX[2:3]), trunk(x_BX)[2:3])
    assert trunk(x_BX[:0]).shape == (0, trunk.out_width)


@pytest.mark.parametrize("kind", TRUNKS)
def test_what_runs_along_x_is_named(kind):
    """Its parameters grow with x, and no other one does."""
    small, trunk = (
        build_trunk(
            ModelSpec(trunk=kind, width=4, mlp=(9, 6), expert_width=3),
            embeddings=embeddings, numbers=1, tasks=TASKS,
        )
        for embeddings in ([4], [4, 5])
    )  # fmt: skip
    before = {name: p.shape for name, p in small.named_parameters()}
    grown = {name for name, p in trunk.named_parameters() if p.shape != before[name]}
    assert grown == set(trunk.along_x())
