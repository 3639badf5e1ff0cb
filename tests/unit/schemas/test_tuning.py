"""Results of older runs are still read, and written as they were."""

import json
from pathlib import Path

import pytest

from iak.schemas.table_placement import TablePlacement
from iak.schemas.tuning import CacheUse, KernelResult, OutsideLoss, TuningRunResult
from iak.schemas.verdict import Verdict
from tests.unit.runs.platform import kernel, tuning_run_result

RECORDS = Path(__file__).parents[3] / "infra" / "benchmarks" / "cpu-2-cores"


@pytest.mark.parametrize("log", ["coupons", "retailrocket", "xmrec"])
def test_the_cache_and_the_tables_of_an_older_record_are_read_and_written_as_they_were(log):
    runs = json.loads((RECORDS / f"{log}.json").read_bytes())
    cache = runs["finetune"]["result"]["cache"]
    assert CacheUse.model_validate(cache).model_dump(mode="json") == cache
    assert "rows_moved" not in cache, "the record is older than this field"
    for run in (runs["pretrain"], runs["finetune"]):
        assert run["result"]["plan"]
        for line in run["result"]["plan"]:
            written = TablePlacement.model_validate(line).model_dump_json()
            assert written == json.dumps(line, separators=(",", ":"))


def test_a_run_without_a_cache_says_nothing_of_one():
    assert CacheUse().model_dump(mode="json") == {}


def test_a_record_has_what_the_workers_measured_and_then_what_the_driver_adds():
    result = tuning_run_result(kernels=[kernel("pooled", 9)], cache={"rows_read": 5})
    document = result.as_json()
    assert list(document)[-3:] == ["base_fingerprint", "live", "untuned_domains"]
    assert document["cache"] == {"rows_read": 5}
    assert document["standardisation"] == {"from": "this run's rows", "digest": "s"}
    assert TuningRunResult.model_validate(document) == result


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (None, ""),
        (0.124, "12% of its own change, and its parent's kernel for the rest"),
        (
            0.0,
            "its parent's kernel alone, since the gains of this level do not exceed their errors",
        ),
    ],
)
def test_what_a_kernel_borrows_is_a_sentence(share, expected):
    verdict = Verdict(publish=True, reason="", rows=1)
    kernel = KernelResult(
        domain="region=x", tuning_rows=9, published=True, reason="", gate=verdict, best_epoch=1,
        valid_gain=0.0, bundle="x", own_share=share,
    )  # fmt: skip
    assert kernel.borrowed() == expected


@pytest.mark.parametrize(
    ("change", "expected"), [(0.01234, "costs 0.0123 nats"), (-0.002, "saves 0.0020 nats")]
)
def test_what_a_kernel_does_outside_its_domain_is_in_words(change, expected):
    words = OutsideLoss(rows=1_204, change=change, error=0.001).words()
    assert words.startswith(expected)
    assert words.endswith("standard error of 0.0010, on 1,204 rows of other domains")
