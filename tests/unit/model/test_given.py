"""A given base passes on what the log holds, and a kernel on it is a kernel as on any base."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import fresh_bank, stack
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.model.given import GivenModel, TaskTowers, identity_towers
from iak.schemas.job import KernelSpec
from tests.given_log import UNITS, towers_weights
from tests.unit.iak.small import moved_kernel, normal

NO_IDS = KeyedJaggedTensor(
    keys=[], values=torch.empty(0, dtype=torch.int64), lengths=torch.empty(0, dtype=torch.int32)
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
SPEC = KernelSpec(hidden=5, code=3, adapter_rank=2)


@given(st.lists(st.tuples(floats, floats), min_size=1))
def test_the_towers_return_every_logit_bit_for_bit(logits):
    logits_BT = torch.tensor(logits)
    assert torch.equal(identity_towers(2)(logits_BT), logits_BT)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_fresh_bank_predicts_the_given_logits_bit_for_bit(counts, seed):
    rows, heads = sum(counts), identity_towers(2)
    shape = KernelShape.on(heads, SPEC, inputs=6)
    logits_BT = 9 * normal(rows, 2, seed=seed)
    bank = fresh_bank(shape, [str(k) for k in range(len(counts))], seed=seed)
    a_BA, segments = normal(rows, 6, seed=1), Segments.of(counts)
    output = banks.run(bank.weights, heads, logits_BT, a_BA, None, segments)
    assert torch.equal(output.logits_BT, logits_BT)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_a_bank_on_given_logits_is_its_kernels_one_by_one(counts):
    rows, heads = sum(counts), identity_towers(2)
    shape = KernelShape.on(heads, SPEC, inputs=6)
    logits_BT, a_BA, segments = normal(rows, 2), normal(rows, 6, seed=1), Segments.of(counts)
    kernels = {str(k): moved_kernel(k, shape) for k in range(len(counts))}
    together = banks.run(stack(shape, kernels).weights, heads, logits_BT, a_BA, None, segments)
    ends = segments.ends_P.tolist()
    for weights, start, end in zip(kernels.values(), [0, *ends], ends, strict=False):
        alone = kernel.run(weights, heads, logits_BT[start:end], a_BA[start:end], None)
        torch.testing.assert_close(together.logits_BT[start:end], alone.logits_BT)


def test_an_adapter_can_give_a_logit_another_slope():
    heads = identity_towers(1)
    shape = KernelShape.on(heads, KernelSpec(hidden=2, code=1, adapter_rank=1), inputs=1)
    weights = kernel.fresh(shape, seed=0)
    weights["lora_in"].fill_(1.0)
    weights["lora_out"].copy_(torch.tensor([[[0.5], [-0.5]]]))
    logits_BT = torch.tensor([[-2.0], [0.0], [3.0]])
    output = kernel.run(weights, heads, logits_BT, torch.zeros(3, 1), None)
    assert output.logits_BT.tolist() == [[-3.0], [0.0], [4.5]]


def test_the_last_dense_inputs_are_the_logits_and_the_others_are_read_beside_them():
    numeric_BN = normal(4, 7)
    h_BH, x_BX = GivenModel(tasks=2).represent(NO_IDS, numeric_BN)
    assert torch.equal(h_BH, numeric_BN[:, 5:])
    assert torch.equal(x_BX, numeric_BN[:, :5])
    assert torch.equal(GivenModel(tasks=2)(NO_IDS, numeric_BN), numeric_BN[:, 5:])


def test_nothing_of_a_given_base_is_trained():
    assert not any(p.requires_grad for p in GivenModel(tasks=3).parameters())


def with_towers():
    towers = TaskTowers(tasks=2, units=UNITS, hidden=[2])
    for name, tensor in towers.named_tensors(["ctr", "cvr"]).items():
        tensor.copy_(towers_weights()[name])
    return GivenModel(tasks=2, towers=towers)


def test_towers_are_linear_layers_with_a_relu_between_them():
    g_BU = torch.tensor([[2.0, -3.0, 9.0], [-1.0, 0.5, 9.0]])
    assert with_towers().towers(g_BU).tolist() == [[1.5, -3.0], [-1.5, 0.5]]
    flat = TaskTowers(tasks=1, units=2, hidden=[])
    flat.towers[0][0].weight.copy_(torch.tensor([[2.0, -1.0]]))
    flat.towers[0][0].bias.fill_(0.25)
    assert flat(torch.tensor([[3.0, 1.0]])).tolist() == [[5.25]]


@given(rows=st.lists(st.tuples(*[st.floats(-99, 99, width=32)] * 5), min_size=1))
def test_with_towers_the_base_still_predicts_the_logged_logit_to_a_rounding(rows):
    model, given_BN = with_towers(), torch.tensor(rows)
    logits_BT = given_BN[:, UNITS:]
    h_BH, x_BX = model.represent(NO_IDS, given_BN)
    assert torch.equal(h_BH[:, 2:], given_BN[:, :UNITS])
    assert torch.equal(x_BX, logits_BT)
    torch.testing.assert_close(model(NO_IDS, given_BN), logits_BT, atol=1e-4, rtol=1e-6)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_fresh_bank_on_towers_is_the_base_bit_for_bit(counts, seed):
    rows, model = sum(counts), with_towers()
    shape = KernelShape.on(model.heads, SPEC, inputs=6)
    h_BH = model.represent(NO_IDS, normal(rows, 1 + UNITS + 2, seed=seed)).h_BH
    bank = fresh_bank(shape, [str(k) for k in range(len(counts))], seed=seed)
    a_BA, segments = normal(rows, 6, seed=1), Segments.of(counts)
    output = banks.run(bank.weights, model.heads, h_BH, a_BA, None, segments)
    assert torch.equal(output.logits_BT, model.heads(h_BH))


def test_a_correction_of_the_activations_goes_through_the_towers():
    model = with_towers()
    shape = KernelShape.on(model.heads, KernelSpec(hidden=2, code=1), inputs=1)
    weights = kernel.fresh(shape, seed=0)
    weights["mean_b"].fill_(1.0)
    weights["decode_w"][2] = 0.75  # the unit of the click's tower, behind the two logits
    weights["encode_w"].zero_()
    given_BN = torch.tensor([[2.0, -3.0, 0.0, 1.5, -3.0], [-1.0, 0.5, 0.0, -1.5, 0.5]])
    h_BH = model.represent(NO_IDS, given_BN).h_BH
    output = kernel.run(weights, model.heads, h_BH, torch.zeros(2, 1), None)
    assert output.logits_BT.tolist() == [[2.25, -3.0], [-0.75, 0.5]]
    assert not any(p.requires_grad for p in model.parameters())
