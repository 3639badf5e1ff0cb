"""h and x come in fp32 whatever the trunk's products are, and only those are rounded."""

import pyarrow as pa
import pytest
import torch

from iak.pipeline.activations import represent as represent_module
from iak.pipeline.activations.represent import represent, represent_rows
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


@pytest.mark.parametrize(("rows", "computed"), [(0, 0), (1, 32), (31, 32), (32, 32), (33, 64)])
def test_a_batch_is_filled_up_with_copies_of_its_last_row(monkeypatch, rows, computed):
    batches = []
    monkeypatch.setattr(
        represent_module, "to_batch", lambda rows, _: torch.tensor(rows["n"].to_pylist())
    )
    monkeypatch.setattr(represent_module, "represent", lambda _model, n_B, _: batches.append(n_B))
    represent_rows(
        None, pa.table({"n": range(rows)}), None, products=torch.float32, device=torch.device("cpu")
    )
    (n_B,) = batches
    assert n_B.tolist() == [*range(rows), *[rows - 1] * (computed - rows)]
