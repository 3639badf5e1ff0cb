"""One kernel: fresh it is the base, and its rate is a divergence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from iak.pipeline.iak import kernel
from iak.pipeline.iak.kernel import fresh, rate
from tests.unit.iak.small import SHAPE, moved_kernel, normal, small_heads


@given(rows=st.integers(0, 300), noisy=st.booleans(), seed=st.integers(0, 99))
def test_a_fresh_kernel_is_the_base_bit_for_bit(rows, noisy, seed):
    heads, h_BH, a_BA = small_heads(), normal(rows, SHAPE.base), normal(rows, SHAPE.inputs, seed=1)
    noise_BC = normal(rows, SHAPE.code, seed=2) if noisy else None
    output = kernel.run(fresh(SHAPE, seed=seed), heads, h_BH, a_BA, noise_BC)
    assert torch.equal(output.logits_BT, heads(h_BH))


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


@pytest.mark.parametrize("name", ["decode_w", "skip_w", "skip_b", "lora_out", "tower_bias"])
def test_every_decoder_can_move_the_logits(name):
    weights, heads, h_BH = fresh(SHAPE, seed=0), small_heads(), normal(20, SHAPE.base)
    weights[name] = weights[name] + 0.5
    moved = kernel.run(weights, heads, h_BH, normal(20, SHAPE.inputs), None).logits_BT
    assert not torch.allclose(moved, heads(h_BH))
