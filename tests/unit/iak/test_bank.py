"""A bank of kernels is its kernels one by one, in one matrix."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import fresh_bank, stack
from iak.pipeline.iak.grouped import Segments
from tests.unit.iak.small import SHAPE, moved_kernel, normal, small_heads

counts_of_slots = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@given(counts=counts_of_slots, noisy=st.booleans(), seed=st.integers(0, 99))
def test_a_fresh_bank_is_the_base_bit_for_bit(counts, noisy, seed):
    rows = sum(counts)
    heads, h_BH, a_BA = small_heads(), normal(rows, SHAPE.base), normal(rows, SHAPE.inputs, seed=1)
    noise_BC = normal(rows, SHAPE.code, seed=2) if noisy else None
    bank = fresh_bank(SHAPE, [str(k) for k in range(len(counts))], seed=seed)
    output = banks.run(bank.weights, heads, h_BH, a_BA, noise_BC, Segments.of(counts))
    assert torch.equal(output.logits_BT, heads(h_BH))


@given(counts=counts_of_slots, noisy=st.booleans(), rank=st.integers(0, 3))
def test_a_bank_is_its_kernels_one_by_one(counts, noisy, rank):
    shape = dataclasses.replace(SHAPE, rank=rank)
    rows, segments = sum(counts), Segments.of(counts)
    heads, h_BH, a_BA = small_heads(), normal(rows, shape.base), normal(rows, shape.inputs, seed=1)
    noise_BC = normal(rows, shape.code, seed=2) if noisy else None
    kernels = {str(k): moved_kernel(k, shape) for k in range(len(counts))}
    together = banks.run(stack(shape, kernels).weights, heads, h_BH, a_BA, noise_BC, segments)
    bounds = segments.ends_P.tolist()
    for (name, weights), start, end in zip(kernels.items(), [0, *bounds], bounds, strict=False):
        part = slice(start, end)
        alone = kernel.run(
            weights, heads, h_BH[part], a_BA[part], None if noise_BC is None else noise_BC[part]
        )
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(other[part], one, atol=1e-5, rtol=1e-5, msg=name)


def test_a_slot_is_a_copy_and_the_weights_by_name_are_the_bank_itself():
    bank = stack(SHAPE, {"a": moved_kernel(1), "b": moved_kernel(2)})
    bank.slot(1)["skip_b"].fill_(9.0)
    bank.clone().weights["skip_b"].fill_(9.0)
    for slot in (0, 1):
        for name, weight in moved_kernel(slot + 1).items():
            assert torch.equal(bank.weights[name][slot], weight)
    bank.weights["skip_b"][1] = 7.0
    assert (bank.flat_KN[1] == 7.0).sum() == SHAPE.tasks


@given(rank=st.integers(0, 5), code=st.integers(1, 9), tasks=st.integers(1, 4))
def test_weights_lie_apart_and_what_a_phase_tunes_lies_together(rank, code, tasks):
    shape = dataclasses.replace(SHAPE, rank=rank, code=code, tasks=tasks)
    places = banks.spans(shape)
    ends = [0]
    for span in places.values():
        assert span.start % 16 == 0
        assert span.start >= ends[-1]
        ends.append(span.stop)
    assert banks.units(shape) >= ends[-1]
    for names in ((*kernel.DECODER, *kernel.ENCODER), (*kernel.PRIOR, *kernel.PROBE)):
        units = banks.range_of(shape, names)
        assert all(
            (places[n].start >= units.start) == (n in names) or n not in names for n in places
        )
        inside = {n for n, s in places.items() if s.start >= units.start and s.stop <= units.stop}
        assert {n for n in inside if places[n].stop > places[n].start} == {
            n for n in names if places[n].stop > places[n].start
        }


def test_kernels_of_a_repeated_bank_share_memory_until_they_are_cloned():
    bank = banks.repeated(SHAPE, moved_kernel(1), ["a", "b", "c"])
    assert bank.flat_KN.stride(0) == 0
    copy = bank.clone()
    copy.weights["skip_b"][0] += 1.0
    assert not torch.equal(copy.weights["skip_b"][0], copy.weights["skip_b"][1])
    assert torch.equal(bank.weights["skip_b"][0], copy.weights["skip_b"][1])


def test_a_part_of_a_bank_writes_into_the_bank():
    bank = stack(SHAPE, {name: moved_kernel(i) for i, name in enumerate("abcd")})
    part = bank.part(slice(1, 3))
    assert part.names == ("b", "c")
    part.weights["mean_b"][0].fill_(7.0)
    assert (bank.weights["mean_b"][1] == 7.0).all()
    assert not (bank.weights["mean_b"][0] == 7.0).any()


def test_a_bank_like_another_has_memory_of_its_own():
    bank = stack(SHAPE, {"a": moved_kernel(1), "b": moved_kernel(2)})
    before = bank.flat_KN.clone()
    other = bank.like()
    assert (other.names, other.flat_KN.shape) == (bank.names, bank.flat_KN.shape)
    other.flat_KN.zero_()
    assert torch.equal(bank.flat_KN, before)


def test_gaps_between_weights_are_zero():
    bank = stack(SHAPE, {"a": moved_kernel(1)})
    inside_N = torch.zeros(banks.units(SHAPE), dtype=torch.bool)
    for span in banks.spans(SHAPE).values():
        inside_N[span.start : span.stop] = True
    assert not bank.flat_KN[:, ~inside_N].any()
    assert bank.flat_KN[:, inside_N].any()


def test_weights_that_are_no_neighbours_have_no_range():
    names = list(banks.spans(SHAPE))
    with pytest.raises(AssertionError, match="are not neighbours"):
        banks.range_of(SHAPE, [names[0], names[2]])
    whole = banks.range_of(SHAPE, names)
    assert (whole.start, whole.stop) == (0, banks.units(SHAPE))


def test_bf16_activations_are_multiplied_in_bf16_and_kept_close():
    weights = stack(SHAPE, {"a": moved_kernel(1), "b": moved_kernel(2)}).weights
    segments, a_BA = Segments.of([9, 7]), normal(16, SHAPE.inputs)
    exact = banks.encode(weights, a_BA, None, segments)
    rounded = banks.encode(weights, a_BA.bfloat16(), None, segments)
    assert rounded.z_BC.dtype == torch.float32
    torch.testing.assert_close(rounded.z_BC, exact.z_BC, atol=0.05, rtol=0.05)
    assert not torch.equal(rounded.z_BC, exact.z_BC)
