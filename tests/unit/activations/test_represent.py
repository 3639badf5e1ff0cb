"""h and x come in fp32 whatever the trunk's products are, and only those are rounded."""

import torch

from iak.pipeline.activations.represent import represent
from iak.pipeline.data.batch import Batch
from tests.unit.model.small import small_batch, small_model


def batch():
    rows = small_batch(9, seed=1)
    return Batch(
        ids=rows.ids,
        numeric_BN=rows.numeric_BN,
        labels_BT=rows.labels_BT,
        mask_BT=rows.mask_BT,
    )


def test_fp32_products_are_the_models_own():
    model, rows = small_model(), batch()
    h_BH, x_BX = represent(model, rows, torch.float32)
    expected = model.represent(rows.ids, rows.numeric_BN)
    assert torch.equal(h_BH, expected.h_BH)
    assert torch.equal(x_BX, expected.x_BX)


def test_bf16_products_round_h_and_leave_x():
    model, rows = small_model(), batch()
    exact = represent(model, rows, torch.float32)
    rounded = represent(model, rows, torch.bfloat16)
    assert rounded.h_BH.dtype == torch.float32
    assert torch.equal(rounded.x_BX, exact.x_BX)
    assert not torch.equal(rounded.h_BH, exact.h_BH)
    torch.testing.assert_close(rounded.h_BH, exact.h_BH, atol=0.05, rtol=0.05)
