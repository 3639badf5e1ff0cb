"""`iak evaluate` shows a block for each task, with base and kernels beside each other."""

import pytest

from iak.jobs.evaluate import show_task
from iak.pipeline.runs.metrics import (
    metrics_of,
)
from iak.schemas.prediction import EvaluationResult
from tests.unit.runs.test_metrics import CATALOG, predictions


@pytest.mark.parametrize("with_kernels", [True, False])
def test_a_block_a_task_shows_base_and_kernels_and_explains_its_summaries(with_kernels, capsys):
    rows = metrics_of(predictions(), CATALOG)
    kept = [r for r in rows if with_kernels or not r.method.startswith("iak")]
    result = EvaluationResult(
        contract={}, digest="", unseen={}, split="test", served={"region=a": "pooled"}
    )
    show_task(result, kept, "ctr")
    told = " ".join(capsys.readouterr().out.split())
    for words in ("ctr on test", "all: mean over the domains", "pooled: all rows ranked together"):
        assert words in told
    assert ("served by" in told) == ("rows of one user as dependent" in told) == with_kernels
    line = next(r for r in rows if (r.method, r.domain, r.task) == ("base", "all", "ctr"))
    assert f"{line.positives:,}" in told
