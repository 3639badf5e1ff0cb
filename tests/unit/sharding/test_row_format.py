"""The bytes of a row in each precision."""

import pytest
import torch

from iak.pipeline.errors import BadRequest
from iak.pipeline.sharding.row_format import (
    PRECISIONS,
    SCALE_BYTES,
    check_width,
    column_bytes,
    has_scale,
    row_bytes,
    stride_bytes,
)


@pytest.mark.parametrize(
    ("precision", "at_64", "at_8"),
    [("fp32", 256, 32), ("fp16", 128, 16), ("int8", 68, 12), ("int4", 36, 8)],
)
def test_a_row_takes_its_codes_and_four_bytes_of_scale(precision, at_64, at_8):
    assert (row_bytes(precision, 64), row_bytes(precision, 8)) == (at_64, at_8)
    assert column_bytes(precision, 64) == at_64 - SCALE_BYTES * has_scale(precision)
    assert stride_bytes(precision, 64, torch.device("cpu")) == at_64
    assert stride_bytes(precision, 64, torch.device("cuda")) % 16 == 0


@pytest.mark.parametrize("width", [1, 2, 3, 5, 6, 7, 10])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_width_is_stored_but_odd_ones_in_int4(precision, width):
    if precision == "int4" and width % 2:
        with pytest.raises(BadRequest, match=rf"table t has {width} columns; int4"):
            check_width("t", precision, width)
    else:
        check_width("t", precision, width)
