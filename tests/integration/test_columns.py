"""A base that runs elsewhere: adopted, tuned, judged and evaluated by its columns."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import torch as safetensors_torch

from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.publish.bundle import list_bundles, read_manifest
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.predict import predict
from iak.schemas.job import AdoptSpec, EvaluateSpec, FinetuneSpec
from iak.schemas.log import Catalog
from iak.schemas.predictions import BASE, PUBLISHED
from iak.schemas.scoring import PredictSpec
from tests import boosted_trees
from tests.answered_log import gains, write_beside
from tests.given_log import (
    REGIONS,
    given_catalog,
    towers_catalog,
    towers_weights,
    write_given_log,
)
from tests.integration import small_log

pytestmark = pytest.mark.slow

CATALOG = given_catalog()
STAGE = {"min_batch": 32, "max_epochs": 6, "lr": 1e-2}
KERNEL = {"hidden": 16, "code": 4}


class Killed(Exception):
    """The end of a run, as far as a test can play it."""


def settings(root, name, **more):
    return {"catalog": "given.toml", "data_root": str(root), "run_dir": root / name} | more


def night(root, name, report=lambda _: None, **more):
    asked = {"base": root / "base", "pooled": STAGE, "domain": STAGE, "kernel": KERNEL}
    spec = FinetuneSpec.model_validate(settings(root, name, **asked | {"workers": 1} | more))
    return tune_night(spec, CATALOG, ProcessLauncher(), report)


def test_day(root, name, **more):
    spec = settings(root, name, base=root / "base", workers=1, **more)
    return evaluate(EvaluateSpec.model_validate(spec), CATALOG, ProcessLauncher())


test_day.__test__ = False


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_given_log(tmp_path_factory.mktemp("columns"), rows=2000)
    adopt_base(AdoptSpec.model_validate(settings(root, "base")), CATALOG)
    night(root, "night")
    return root


def weights_of(root, name):
    manifest = json.loads((root / "base" / "base" / "manifest.json").read_text())
    asked = {k: manifest[k] for k in ("schema_hash",)} | {
        "base_fingerprint": manifest["fingerprint"]
    }
    return read_bundle_set(root / name / "bundles", **asked).weights


def digests_of(root, name):
    folders = list_bundles(root / name / "bundles")
    return {folder.name: read_manifest(folder).weights_digest for folder in folders}


def test_the_base_predicts_the_sigmoid_of_the_logged_logit_bit_for_bit(root):
    test_day(root, "base only")
    predicted = pq.read_table(root / "base only" / "predictions" / "test-0.parquet")
    logged = [
        pq.read_table(root / f"events/region={region}/dt=2026-10-02/part.parquet")
        for region in REGIONS
    ]
    logits = np.concatenate([table["logit_ctr"].to_numpy() for table in logged])
    expected = torch.from_numpy(logits).float().double().sigmoid().numpy()
    assert np.array_equal(predicted[f"own.{BASE}.ctr"].to_numpy(), expected)


def test_predictions_are_those_of_the_evaluation(root):
    test_day(root, "judged", bundles=root / "night")
    asked = {"base": root / "base", "bundles": root / "night", "workers": 1}
    spec = PredictSpec.model_validate(
        settings(root, "scored", **asked, dates=("2026-10-02", "2026-10-02"))
    )
    scored = predict(spec, CATALOG, ProcessLauncher())
    rows = pq.read_table(scored.predictions).sort_by("row")
    judged = pq.read_table(root / "judged" / "predictions").sort_by("row")
    assert rows["row"].equals(judged["row"])
    for task in ("ctr", "cvr"):
        expected = judged[f"own.{PUBLISHED}.{task}"].to_numpy()
        assert np.array_equal(rows[f"p.{task}"].to_numpy(), expected)


def test_kernels_learn_what_the_recommender_did_not(root):
    evaluation = test_day(root, "tuned", bundles=root / "night")
    for row in evaluation.rows:
        if row.task == "ctr" and row.method == "iak":
            assert row.delta_auc_low > 0.02, row
            assert row.delta_logloss_high < 0, row


def test_two_workers_tune_the_kernels_of_one(root):
    night(root, "two", workers=2)
    one, two = weights_of(root, "night"), weights_of(root, "two")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=1e-4, msg=name)


def test_a_night_that_was_killed_ends_as_if_it_had_not_been(root):
    heard = []

    def dies(event):
        heard.append(event)
        if sum(str(e.get("event", "")).startswith("level") for e in heard) == 2:
            raise Killed

    with pytest.raises(Killed):
        night(root, "killed", dies, checkpoint_every_s=1e-6)
    night(root, "killed", checkpoint_every_s=1e-6)
    assert digests_of(root, "killed") == digests_of(root, "night")


def test_kernels_learn_through_given_towers(root):
    catalog = towers_catalog()
    weights = root / "towers.safetensors"
    safetensors_torch.save_file(towers_weights(), weights)
    asked = settings(root, "towers", weights=weights)
    adopt_base(AdoptSpec.model_validate(asked), catalog)
    on = {"base": root / "towers", "workers": 1}
    stages = {"pooled": STAGE, "domain": STAGE, "kernel": KERNEL}
    tuned = FinetuneSpec.model_validate(settings(root, "towers night", **on | stages))
    tune_night(tuned, catalog, ProcessLauncher())
    judged = settings(root, "towers judged", **on, bundles=root / "towers night")
    rows = evaluate(EvaluateSpec.model_validate(judged), catalog, ProcessLauncher()).rows
    clicks = [row for row in rows if row.task == "ctr" and row.method == "iak"]
    assert clicks
    assert all(row.delta_auc_low > 0.02 and row.delta_logloss_high < 0 for row in clicks)


def test_activations_are_not_stored_a_second_time(root):
    assert not (root / "base" / "activations").exists()


def test_kernels_lift_boosted_trees(tmp_path):
    small_log.write_log(tmp_path / "log", rows=20_000)
    document = small_log.catalog_document()
    trees = Catalog.model_validate(document)
    source, target = tmp_path / "log/events", tmp_path / "given/events"
    columns = write_beside(trees, source, target, boosted_trees.columns_of)
    given = Catalog.model_validate(boosted_trees.columns_catalog(document, columns))
    rows = gains(given, tmp_path / "given")
    clicks = {row.method: row for row in rows if row.task == "ctr"}
    assert 0.55 < clicks["iak"].auc - clicks["iak"].delta_auc < 0.7
    assert clicks["iak"].delta_auc_low > 0
