"""The floor under a step agrees with what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from iak.pipeline.iak import kernel
from iak.pipeline.iak.kernel import PROBE, KernelShape
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.trunks.mlp import Mlp
from infra.benchmarks.finetune import roofline
from infra.benchmarks.finetune.roofline import Floor, Sizes

SIZES = Sizes(rows=40, ids=6.0, width=8, x_units=30, mlp=(24, 16))
SHAPE = KernelShape(
    base=16, inputs=46, hidden=12, code=5, tasks=2, tower_in=8, tower_hidden=7, rank=3
)


def counted(work):
    with FlopCounterMode(display=False) as flops:
        work()
    return flops.get_total_flops()


@pytest.mark.parametrize(
    ("x_learns", "trunk_learns", "passes"),
    [
        (True, True, ("forward", "inputs", "weights")),
        (True, False, ("forward", "inputs")),
        (False, False, ("forward",)),
    ],
)
def test_a_trunks_products(x_learns, trunk_learns, passes):
    trunk = Mlp(width=30, mlp=[24, 16], expert_width=8, tasks=2).requires_grad_(trunk_learns)
    x_BX = torch.randn(40, 30, requires_grad=x_learns)

    def work():
        h_BH = trunk(x_BX)
        if x_learns:
            h_BH.sum().backward()

    assert roofline.trunk(SIZES, passes=passes).flops == counted(work)


@pytest.mark.parametrize("inputs_have_gradients", [True, False])
def test_a_kernels_products(inputs_have_gradients):
    heads = Heads(tasks=2, width=8, hidden=7).requires_grad_(False)
    weights = kernel.fresh(SHAPE, seed=0)
    for name, weight in weights.items():
        weight.requires_grad_(name not in PROBE)
    h_BH = torch.randn(40, 16, requires_grad=inputs_have_gradients)
    a_BA = torch.randn(40, 46, requires_grad=inputs_have_gradients)

    def work():
        out = kernel.run(weights, heads, h_BH, a_BA, torch.randn(40, 5))
        (out.logits_BT.sum() + out.rate_B.sum()).backward()

    floor = roofline.kernels(
        SHAPE, rows=40, present=1, inputs_have_gradients=inputs_have_gradients, kept_bytes=0
    )
    assert floor.flops == pytest.approx(counted(work), rel=0.1)


def test_trained_tables_move_more_than_frozen_ones_and_narrow_ones_less():
    trained, frozen, narrow = (
        roofline.lookups(SIZES, row_bytes=row_bytes, trained=trained).num_bytes
        for row_bytes, trained in ((32, True), (32, False), (8, False))
    )
    assert frozen == 40 * (6 * 32 + 30 * 4)
    assert narrow == frozen - 40 * 6 * 24
    assert trained > 2 * frozen


def test_the_longer_of_both_bounds_a_step():
    floor = Floor(flops=10.0, num_bytes=100.0)
    assert floor.seconds(flops_per_s=1.0, bytes_per_s=100.0) == 10.0
    assert floor.seconds(flops_per_s=100.0, bytes_per_s=1.0) == 100.0
