"""The trunk of crosses and experts, against its formulas."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from iak.pipeline.model.trunks import dcnv2_mmoe
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe


def test_the_trunk_mixes_experts_by_each_tasks_gate():
    trunk = DcnMmoe(width=6, cross_layers=0, mlp=[], experts=3, expert_width=4, tasks=2)
    x_BX = torch.randn(5, 6)
    e_BEW = trunk.expert(x_BX).relu().view(5, 3, 4)
    gates_BTE = trunk.gate(x_BX).view(5, 2, 3).softmax(-1)
    for t in range(2):
        mixture_BW = sum(gates_BTE[:, t, e, None] * e_BEW[:, e] for e in range(3))
        torch.testing.assert_close(trunk(x_BX)[:, 4 * t : 4 * t + 4], mixture_BW)


def test_crosses_may_be_of_low_rank():
    trunk = DcnMmoe(
        width=6, cross_layers=2, cross_rank=2, mlp=[8, 5], experts=2, expert_width=4, tasks=2
    )
    assert isinstance(trunk.cross, LowRankCrossNet)
    assert trunk(torch.randn(3, 6)).shape == (3, trunk.out_width)


def test_dropout_acts_in_training_only():
    trunk = DcnMmoe(
        width=6, cross_layers=1, mlp=[8], experts=2, expert_width=4, tasks=2, dropout=0.5
    )
    x_BX = torch.randn(3, 6)
    assert not torch.equal(trunk(x_BX), trunk(x_BX))
    trunk.eval()
    assert torch.equal(trunk(x_BX), trunk(x_BX))


@pytest.mark.parametrize("cross_rank", [None, 2])
def test_a_cross_multiplies_x_with_a_map_of_what_was_crossed(cross_rank):
    trunk = DcnMmoe(
        width=5, cross_layers=2, cross_rank=cross_rank, experts=2, expert_width=3, tasks=1
    )
    x_BX = torch.randn(4, 5)
    crossed = x_BX
    for layer in range(2):
        bias = trunk.cross.bias[layer].flatten()
        if cross_rank is None:
            mapped = crossed @ trunk.cross.kernels[layer].t()
        else:
            mapped = crossed @ trunk.cross.V_kernels[layer].t() @ trunk.cross.W_kernels[layer].t()
        crossed = x_BX * (mapped + bias) + crossed
    torch.testing.assert_close(trunk.cross(x_BX), crossed)


@pytest.mark.parametrize("cross_rank", [None, 2])
@pytest.mark.parametrize("mlp", [(), (8,)])
def test_every_parameter_that_is_as_wide_as_x_is_named_along_it(cross_rank, mlp):
    width = 11
    trunk = DcnMmoe(
        width=width, cross_layers=1, cross_rank=cross_rank, mlp=mlp, experts=2, expert_width=3,
        tasks=2,
    )  # fmt: skip
    joined = width + (mlp[-1] if mlp else 0)
    wide = {n for n, p in trunk.named_parameters() if {width, joined} & set(p.shape)}
    along = trunk.along_x()
    assert set(along) == wide
    for name, axes in along.items():
        shape = trunk.get_parameter(name).shape
        for axis in (axes.reads, axes.makes):
            assert axis is None or shape[axis] in (width, joined)


class Operators(TorchDispatchMode):
    """Record the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cross_rank", [None, 2])
def test_frozen_crosses_multiply_all_rows_at_once(cross_rank):
    trunk = DcnMmoe(
        width=5, cross_layers=2, cross_rank=cross_rank, experts=2, expert_width=3, tasks=1
    ).requires_grad_(False)
    with torch.no_grad(), Operators() as called:
        trunk.cross(torch.randn(7, 5))
    assert torch.ops.aten.bmm not in called.names
    assert {torch.ops.aten.mm, torch.ops.aten.addmm} & set(called.names)


def test_crosses_train_as_torchrecs_do_bit_for_bit(monkeypatch):
    """Also where the MLP reads x as well, so that its gradient is a sum over both."""

    def trained():
        torch.manual_seed(0)
        trunk = DcnMmoe(width=13, cross_layers=3, mlp=[8], experts=2, expert_width=3, tasks=1)
        x_BX = torch.randn(70, 13).requires_grad_(True)
        h_BH = trunk(x_BX)
        h_BH.square().sum().backward()
        return [h_BH.detach(), *(leaf.grad for leaf in (x_BX, *trunk.parameters()))]

    ours = trained()
    monkeypatch.setattr(dcnv2_mmoe, "FullCrosses", CrossNet)
    theirs = trained()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
