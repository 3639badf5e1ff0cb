"""The inputs of kernels: standardised by what is left to fold, they are those of tuning."""

import pytest
import torch

from iak.pipeline.iak.predictor import SEGMENT_ROWS, SortedRows
from iak.pipeline.publish.encoder_inputs import EncoderInputs
from tests.unit.iak.small import SHAPE, X_UNITS, normal
from tests.unit.publish.test_bundle_set import BUNDLES, bundle_set_of

KINDS = {
    "x as it is": {},
    "h alone": {"reads": "h"},
    "components of all kernels": {"alike": True, "narrow": 3},
    "components of each kernel": {"narrow": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_to_fold_makes_them_those_of_the_standardizer(tmp_path, kind):
    bundles = bundle_set_of(tmp_path, list(BUNDLES), **KINDS[kind])
    inputs = EncoderInputs(bundles)
    h_BH, x_BX = normal(40, SHAPE.base), normal(40, X_UNITS, seed=1)
    owners_R = torch.arange(len(BUNDLES)).repeat_interleave(SEGMENT_ROWS)
    rows = SortedRows(
        slots=list(range(len(BUNDLES))), lengths=[SEGMENT_ROWS] * len(BUNDLES), owners_B=owners_R
    )
    index_R = torch.tensor([39, 7, 7, 0, 12]).repeat(SEGMENT_ROWS)
    u_RA = inputs.of(h_BH, x_BX, None, rows, index_R)
    for slot in rows.slots:
        own = index_R[owners_R == slot]
        a_BA = (u_RA[owners_R == slot] - inputs.mean_KA[slot]) / inputs.scale_KA[slot]
        expected_BA = bundles.standard(slot).of(h_BH[own], x_BX[own])
        torch.testing.assert_close(a_BA, expected_BA, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("components", [1, 6, 12])
def test_a_row_has_the_same_components_wherever_it_lies_in_a_batch(tmp_path, components):
    """With 50 inputs a row begins at a multiple of 8 bytes; an AMD EPYC rounds by that."""
    inputs = EncoderInputs(bundle_set_of(tmp_path, list(BUNDLES), alike=True, narrow=3))
    inputs.components_NX = normal(components, 50, seed=2)
    h_BH, x_BX = normal(480, SHAPE.base), normal(480, 50, seed=1)

    def of(part):
        rows = len(range(480)[part])
        slots = SortedRows(slots=[0], lengths=[rows], owners_B=torch.zeros(rows, dtype=torch.long))
        return inputs.of(h_BH[part].clone(), x_BX[part].clone(), None, slots, torch.arange(rows))

    whole_RA = of(slice(0, 480))
    for first in range(1, 4):
        part = slice(first, first + 96)
        assert torch.equal(of(part), whole_RA[part])
