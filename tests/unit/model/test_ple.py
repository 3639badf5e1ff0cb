"""PLE against its formulas."""

import math

import pytest
import torch

from iak.pipeline.base.dense_parts import build_trunk
from iak.pipeline.model.trunks.ple import Ple
from iak.schemas.job import ModelSpec

SIZES = {"experts": 2, "shared_experts": 3, "expert_width": 4, "tasks": 2}


def test_two_levels_by_hand():
    """One input, one expert in each group, x = 2.

    Level 1: experts 2, 4 and shared 6. Its gates are even: (2 + 6) / 2, (4 + 6) / 2 and 12 / 3.
    Level 2: experts 2 * 4, 1 * 5 and shared 1 * 4. Task 0's gate weighs 1 : 3, task 1's is even.
    """
    trunk = Ple(width=1, levels=2, experts=1, shared_experts=1, expert_width=1, tasks=2)
    for parameter in trunk.parameters():
        parameter.data.zero_()
    for level, weights in zip(trunk.levels, ((1.0, 2.0, 3.0), (2.0, 1.0, 1.0)), strict=True):
        for expert, weight in zip(level.experts, weights, strict=True):
            expert.weight.data.fill_(weight)
    trunk.levels[1].gates[0].bias.data[1] = math.log(3)
    torch.testing.assert_close(trunk(torch.tensor([[2.0]])), torch.tensor([[5.0, 4.5]]))


def test_a_gate_reads_the_level_before():
    trunk = Ple(width=5, levels=1, **SIZES)
    (level,) = trunk.levels
    x_BX = torch.randn(6, 5)
    own, _, shared = (expert(x_BX).relu().view(6, -1, 4) for expert in level.experts)
    weights_BE = level.gates[0](x_BX).softmax(dim=1)
    mixture_BW = torch.einsum("be,bew->bw", weights_BE, torch.cat([own, shared], dim=1))
    torch.testing.assert_close(trunk(x_BX)[:, :4], mixture_BW)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_task_reads_another_ones_experts_only_through_shared_ones(levels):
    """In one level task 0 does not reach them at all; of two, the shared gate reads all."""
    trunk = Ple(width=5, levels=levels, **SIZES)
    trunk(torch.randn(64, 5))[:, :4].sum().backward()
    (own, other, shared) = (expert.weight.grad for expert in trunk.levels[0].experts)
    assert own.abs().max() > 0
    assert shared.abs().max() > 0
    assert (other is not None and other.abs().max() > 0) == (levels == 2)


def test_dropout_acts_in_training_only():
    trunk = Ple(width=5, levels=2, **SIZES, dropout=0.5)
    x_BX = torch.randn(3, 5)
    assert not torch.equal(trunk(x_BX), trunk(x_BX))
    assert torch.equal(trunk.eval()(x_BX), trunk(x_BX))


@pytest.mark.parametrize("setting", ["levels", "experts", "shared_experts"])
def test_a_size_of_zero_is_refused_by_its_setting(setting):
    with pytest.raises(ValueError, match=rf"has 0 {setting}; set model\.{setting} to 1"):
        Ple(width=5, **{"levels": 2} | SIZES | {setting: 0})


def test_a_spec_chooses_it():
    spec = ModelSpec(trunk="ple", levels=3, shared_experts=5)
    trunk = build_trunk(spec, embeddings=[4], numbers=1, tasks=2)
    assert isinstance(trunk, Ple)
    assert len(trunk.levels) == 3
