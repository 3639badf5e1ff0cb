"""What a run says of its best weights is read as it was written."""

import pytest

from iak.pipeline.base.best_weights import BestWeights, read_best
from iak.pipeline.sharding.rectangles import FileEntry
from iak.schemas.training import TowerResult, TunedTowers

ENTRY = FileEntry(
    path="tables/user/r0-c0.safetensors", table="user", row_offset=0, rows=7, col_offset=0, cols=4,
    dtype="float32", sha256="a" * 64, bytes=112,
)  # fmt: skip
TUNED = TunedTowers(
    towers=(TowerResult(task="ctr", step=3, loss_before=0.5, loss=0.4),),
    best_valid_loss=0.4,
    best_tasks=(),
)


@pytest.mark.parametrize("tuned", [None, TUNED])
def test_it_is_read_as_it_was_written(tmp_path, tuned):
    best = BestWeights(files=[ENTRY], optimizer=[], digest={"trunk.w": "d"}, tuned=tuned)
    best.write(tmp_path)
    assert read_best(tmp_path) == best
