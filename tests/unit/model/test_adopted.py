"""A torch module as a base: its own logits, frozen, and kernels that move its h."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import fresh_bank, stack
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.model.adopted import AdoptedModel
from iak.schemas.job import KernelSpec
from tests import plain_dlrm
from tests.unit.iak.small import moved_kernel, normal

SPEC = KernelSpec(hidden=5, code=3)
counts_of_slots = st.lists(st.integers(0, 9), min_size=1, max_size=4)


def model():
    torch.manual_seed(3)
    return AdoptedModel(plain_dlrm.build(), tasks=1)


def shape_of(base):
    return KernelShape.on(base.heads, SPEC, inputs=6)


def test_it_answers_as_the_module_does():
    base, users, items = model(), torch.tensor([3, 5, 0]), torch.tensor([1, 7, 39])
    ids = KeyedJaggedTensor(
        keys=["user", "item"],
        values=torch.cat([users, items]) + 2,
        lengths=torch.ones(6, dtype=torch.int32),
    )
    numbers = normal(3, 1)
    with torch.no_grad():
        own = base.module.forward(users, items, numbers)
    assert torch.equal(base(ids, numbers), own)
    assert torch.equal(base.represent(ids, numbers).x_BX, numbers)


@given(counts=counts_of_slots)
def test_a_fresh_bank_is_the_module_bit_for_bit(counts):
    base, rows = model(), sum(counts)
    h_BH, a_BA = normal(rows, plain_dlrm.HIDDEN), normal(rows, 6, seed=1)
    bank = fresh_bank(shape_of(base), [str(k) for k in range(len(counts))], seed=0)
    output = banks.run(bank.weights, base.heads, h_BH, a_BA, None, Segments.of(counts))
    assert torch.equal(output.logits_BT, base.heads(h_BH))


@given(counts=counts_of_slots, noisy=st.booleans())
def test_a_bank_on_a_tail_is_its_kernels_one_by_one(counts, noisy):
    base, rows, segments = model(), sum(counts), Segments.of(counts)
    h_BH, a_BA = normal(rows, plain_dlrm.HIDDEN), normal(rows, 6, seed=1)
    noise_BC = normal(rows, 3, seed=2) if noisy else None
    kernels = {str(k): moved_kernel(k, shape_of(base)) for k in range(len(counts))}
    together = banks.run(
        stack(shape_of(base), kernels).weights, base.heads, h_BH, a_BA, noise_BC, segments
    )
    ends = segments.ends_P.tolist()
    for weights, start, end in zip(kernels.values(), [0, *ends], ends, strict=False):
        part = slice(start, end)
        own = None if noise_BC is None else noise_BC[part]
        alone = kernel.run(weights, base.heads, h_BH[part], a_BA[part], own)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(other[part], one, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_decoder_through_the_tail_and_no_weight_of_the_module():
    base = model()
    weights = {n: w.requires_grad_() for n, w in moved_kernel(1, shape_of(base)).items()}
    h_BH, a_BA = normal(4, plain_dlrm.HIDDEN), normal(4, 6, seed=1)
    kernel.run(weights, base.heads, h_BH, a_BA, None).logits_BT.sum().backward()
    assert weights["decode_w"].grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())
