"""Rows that were predicted: a night computes none of them again, in whatever files they lie."""

import pytest
from pydantic import ValidationError

from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.predict import predict
from iak.schemas.job import FinetuneSpec
from iak.schemas.scoring import PredictSpec
from tests.builders import DAYS, REGIONS, write_file
from tests.unit.serving.shop import (
    KERNEL,
    read_all,
    shop_catalog,
    write_base,
    write_bundles,
    write_shop,
)

SPLITS = {
    "tune": {"slice": [0.0, 0.6]}, "valid": {"slice": [0.6, 0.8]}, "gate": {"slice": [0.8, 1.0]},
}  # fmt: skip
ROWS = 508


@pytest.fixture
def place(tmp_path):
    """A base, its kernels, the log as it was predicted, and the same rows in other files."""
    rows = write_shop(tmp_path / "yesterday")
    for number, (region, day) in enumerate((r, d) for r in REGIONS for d in DAYS[:2]):
        folder = tmp_path / "tonight" / "events" / f"region={region}" / f"dt={day}"
        own = rows.filter((rows["region"].to_numpy() == region) & (rows["dt"].to_numpy() == day))
        own = own.drop_columns(["region", "dt"]).take(list(range(len(own)))[::-1])
        write_file(folder / f"labelled-{number}.parquet", own.slice(0, 50), [20, 30])
        write_file(folder / f"labelled-{number}b.parquet", own.slice(50))
    write_bundles(tmp_path / "bundles", write_base(tmp_path / "R1" / "base"))
    return tmp_path


def spec_of(place, **changes):
    fields = {
        "catalog": "shop", "data_root": str(place / "yesterday"), "run_dir": place / "P1",
        "workers": 1, "device": "cpu", "base": place / "R1", "bundles": place / "bundles",
        "part_rows": 100, "keep_activations": True, "tables": {"precision": "fp32"},
    }  # fmt: skip
    return PredictSpec.model_validate(fields | changes)


def night_of(place, **changes):
    stage = {"max_epochs": 1, "live_epochs": 1, "min_batch": 16, "max_batch": 32}
    fields = {
        "catalog": "shop", "data_root": str(place / "tonight"), "run_dir": place / "R2",
        "workers": 1, "device": "cpu", "base": place / "R1", "live": place / "bundles",
        "kernel": KERNEL.model_dump(), "pooled": stage, "domain": stage,
        "gate": {"min_positives": 3, "min_negatives": 3}, "tables": {"precision": "fp32"},
    }  # fmt: skip
    spec = FinetuneSpec.model_validate(fields | changes)
    return tune_night(spec, shop_catalog(splits=SPLITS), ProcessLauncher()).tuning.cache


def test_a_night_computes_no_row_that_was_predicted_before(place):
    predict(spec_of(place), shop_catalog(), ProcessLauncher())
    used = night_of(place)
    assert (used.rows_read, used.rows_computed) == (ROWS, 0)


def test_a_night_in_another_precision_computes_every_row(place):
    predict(spec_of(place, cache={"precision": "fp32"}), shop_catalog(), ProcessLauncher())
    used = night_of(place)
    assert (used.rows_read, used.rows_computed) == (0, ROWS)


def test_predictions_are_the_same_with_activations_stored_or_not(place):
    kept = predict(spec_of(place), shop_catalog(), ProcessLauncher())
    plain = predict(
        spec_of(place, run_dir=place / "P2", keep_activations=False),
        shop_catalog(),
        ProcessLauncher(),
    )
    assert read_all(kept.predictions).equals(read_all(plain.predictions))


def test_activations_need_kernels_that_read_them(place):
    with pytest.raises(ValidationError, match="no bundles are given"):
        spec_of(place, bundles=None)
