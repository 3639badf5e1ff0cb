"""One kernel and a bank of them: fresh is the base, and together is one by one."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import fresh_bank, stack
from iak.pipeline.iak.grouped import Segments, grouped_linear, slot_sums, spread
from iak.pipeline.iak.kernel import fresh, rate
from tests.unit.iak.small import SHAPE, moved_kernel, normal, small_heads

counts_of_slots = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@given(rows=st.integers(0, 300), noisy=st.booleans(), seed=st.integers(0, 99))
def test_a_fresh_kernel_is_the_base_bit_for_bit(rows, noisy, seed):
    heads, h_BH, a_BA = small_heads(), normal(rows, SHAPE.base), normal(rows, SHAPE.inputs, seed=1)
    noise_BC = normal(rows, SHAPE.code, seed=2) if noisy else None
    output = kernel.run(fresh(SHAPE, seed=seed), heads, h_BH, a_BA, noise_BC)
    assert torch.equal(output.logits_BT, heads(h_BH))


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


@given(st.integers(0, 2**31), st.floats(0, 3))
def test_the_rate_is_the_divergence_from_the_prior_and_never_negative(seed, size):
    mean, logvar, prior_mean, prior_logvar = (
        size * normal(4, 3, seed=seed + part).double() for part in range(4)
    )
    rate_B = rate(mean, logvar, prior_mean, prior_logvar)
    posterior = MultivariateNormal(mean, torch.diag_embed(logvar.exp()))
    prior = MultivariateNormal(prior_mean, torch.diag_embed(prior_logvar.exp()))
    torch.testing.assert_close(rate_B, kl_divergence(posterior, prior))
    assert (rate_B >= -1e-15).all()


@given(st.integers(0, 2**31), st.floats(0, 3))
def test_the_rate_is_zero_at_the_prior(seed, size):
    mean, logvar = size * normal(4, 3, seed=seed), size * normal(4, 3, seed=seed + 1)
    assert torch.equal(rate(mean, logvar, mean, logvar), torch.zeros(4))


@given(seed=st.integers(0, 2**31), size=st.floats(0, 5))
def test_no_kernel_has_a_rate_below_zero(seed, size):
    rows = 16
    output = kernel.run(
        moved_kernel(seed % 1000, size=size), small_heads(), normal(rows, SHAPE.base),
        normal(rows, SHAPE.inputs, seed=seed), None,
    )  # fmt: skip
    assert (output.rate_B >= -1e-6).all()


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


@given(counts=counts_of_slots)
def test_sums_over_slots_undo_spreading(counts):
    segments, values_P = Segments.of(counts), normal(len(counts), 2)
    expected = values_P * torch.tensor(counts, dtype=torch.float32)[:, None]
    torch.testing.assert_close(slot_sums(spread(values_P, segments), segments), expected)


@given(counts=counts_of_slots)
def test_each_run_of_rows_meets_its_own_matrix(counts):
    segments, slots = Segments.of(counts), len(counts)
    x_BI, w_POI, b_PO = normal(sum(counts), 3), normal(slots, 2, 3), normal(slots, 2)
    slot_B = torch.repeat_interleave(torch.arange(slots), torch.tensor(counts))
    expected = torch.einsum("bi,boi->bo", x_BI, w_POI[slot_B]) + b_PO[slot_B]
    torch.testing.assert_close(grouped_linear(x_BI, w_POI, b_PO, segments), expected)


@pytest.mark.parametrize("name", ["decode_w", "skip_w", "skip_b", "lora_out", "tower_bias"])
def test_every_decoder_can_move_the_logits(name):
    weights, heads, h_BH = fresh(SHAPE, seed=0), small_heads(), normal(20, SHAPE.base)
    weights[name] = weights[name] + 0.5
    moved = kernel.run(weights, heads, h_BH, normal(20, SHAPE.inputs), None).logits_BT
    assert not torch.allclose(moved, heads(h_BH))
