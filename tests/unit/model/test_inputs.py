"""Dense tensors carried over to another layout of x answer as they did."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.model.inputs import AlongX, Input, carry_over, input_origin
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.pipeline.model.trunks.mlp import Mlp
from iak.pipeline.model.trunks.ple import Ple

NAMES, NUMBERS = "abcdef", "uvwx"
CROSSED = {"cross_layers": 2, "mlp": [5], "experts": 2, "expert_width": 3, "tasks": 2}
DEEP = {"width": 3, "mlp": [7], "expert_width": 2, "tasks": 2}
EXTRACTED = {"levels": 2, "experts": 2, "shared_experts": 1, "expert_width": 3, "tasks": 2}
TRUNKS = {
    "full crosses": lambda x: DcnMmoe(width=width_of(x), **CROSSED),
    "thin crosses": lambda x: DcnMmoe(width=width_of(x), **CROSSED, cross_rank=2),
    "no crosses": lambda x: DcnMmoe(width=width_of(x), **CROSSED | {"cross_layers": 0}),
    "no mlp": lambda x: DcnMmoe(width=width_of(x), **CROSSED | {"mlp": []}),
    "mlp": lambda x: Mlp(width=width_of(x), mlp=[7, 4], expert_width=2, tasks=2),
    "deepfm": lambda x: DeepFm(**parts_of(x), **DEEP),
    "dlrm": lambda x: Dlrm(**parts_of(x), **DEEP),
    "ple": lambda x: Ple(width=width_of(x), **EXTRACTED),
}


@st.composite
def layouts(draw):
    """A layout, and one that has its inputs and others, in another order; numbers come last."""
    before = [Input(n, draw(st.integers(1, 4))) for n in NAMES[: draw(st.integers(1, 3))]]
    new = [Input(n, draw(st.integers(1, 4))) for n in NAMES[3 : 3 + draw(st.integers(0, 3))]]
    numbers = [Input(n, 1, is_number=True) for n in NUMBERS[: draw(st.integers(0, 2))]]
    others = [Input(n, 1, is_number=True) for n in NUMBERS[2 : 2 + draw(st.integers(0, 2))]]
    now = [
        *draw(st.permutations([*before, *new])),
        *draw(st.permutations([*numbers, *others])),
    ]
    return [*before, *numbers], now


def width_of(layout):
    return sum(part.width for part in layout)


def parts_of(layout):
    embeddings = [part.width for part in layout if not part.is_number]
    return {"embeddings": embeddings, "numbers": len(layout) - len(embeddings)}


def unlike_zero(trunk):
    """Biases start at zero, and would hide that they moved."""
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trunk


def carried(old, new, origin):
    along = new.along_x()
    before = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        if name in along:
            assert origin.fits(along[name], parameter.shape, before[name].shape)
            carry_over(parameter, before[name].detach(), along[name], origin)
        else:
            parameter.data.copy_(before[name])
    return new


def rearranged(x_BX, before, now):
    parts = dict(zip(before, x_BX.split([p.width for p in before], dim=1), strict=True))
    return torch.cat([parts[p] if p in parts else torch.randn(len(x_BX), p.width) for p in now], 1)


@pytest.mark.parametrize("kind", TRUNKS)
@settings(max_examples=20, deadline=None)
@given(layouts=layouts())
def test_new_inputs_change_no_answer(kind, layouts):
    before, now = layouts
    torch.manual_seed(0)
    old, new = (unlike_zero(TRUNKS[kind](layout)) for layout in layouts)
    carried(old, new, input_origin(before, now))
    x_BX = torch.randn(6, width_of(before))
    torch.testing.assert_close(new(rearranged(x_BX, before, now)), old(x_BX), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", TRUNKS)
def test_new_inputs_learn(kind):
    """What starts at zero does not stay there: a gradient reaches the new units' entries."""
    before, now = [Input("a", 3)], [Input("a", 3), Input("d", 2)]
    torch.manual_seed(0)
    old, new = (unlike_zero(TRUNKS[kind](layout)) for layout in (before, now))
    carried(old, new, input_origin(before, now))
    x_BX = torch.randn(64, 5, requires_grad=True)
    new(x_BX).square().sum().backward()
    assert x_BX.grad[:, 3:].abs().max() == 0
    reading = {n: a.reads for n, a in new.along_x().items() if a.reads is not None}
    moved = [
        parameter.grad.select(reading[name], 4).abs().max() > 0
        for name, parameter in new.named_parameters()
        if name in reading
    ]
    assert any(moved)


def test_a_lost_input_takes_its_units_along():
    before, now = [Input("a", 1), Input("b", 2), Input("c", 1)], [Input("c", 1), Input("a", 1)]
    origin = input_origin(before, now)
    assert origin.unit_before == (3, 0)
    assert not origin.keeps_all
    old, new = (torch.nn.Linear(width_of(layout), 2) for layout in (before, now))
    carry_over(new.weight, old.weight.detach(), Mlp.along_x(new)["layers.0.weight"], origin)
    assert torch.equal(new.weight, old.weight[:, [3, 0]])


def test_an_input_of_another_width_is_a_new_one():
    origin = input_origin([Input("a", 2), Input("b", 1)], [Input("a", 3), Input("b", 1)])
    assert origin.unit_before == (-1, -1, -1, 2)


def test_a_pair_moves_with_its_embeddings():
    """Pairs before: 0a 0b 0c ab ac bc, and now: 0c 0d 0a cd ca da; two other entries follow."""
    a, b, c, d = (Input(name, 2) for name in "abcd")
    origin = input_origin([a, b, c], [c, d, a])
    now, before = origin.pair_indices(6 + 2)
    assert now.tolist() == [0, 2, 4, 6, 7]
    assert before.tolist() == [2, 0, 4, 6, 7]


def test_a_number_is_no_vector_of_a_pair():
    number = Input("n", 1, is_number=True)
    origin = input_origin([Input("a", 2), number], [Input("a", 2), Input("b", 2), number])
    now, before = origin.pair_indices(3)
    assert (now.tolist(), before.tolist()) == ([0], [0])
    assert origin.fits(AlongX(pairs=1), (5, 3 + 4), (5, 1 + 4))
    assert not origin.fits(AlongX(pairs=1), (5, 3 + 4), (5, 2 + 4))
