"""A plain-torch DLRM, trained by a loop that knows nothing of this project, as a base."""

import dataclasses
import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import torch as safetensors_torch

from iak.jobs import cli
from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.errors import BadLog, BadRequest, Corrupt
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.finetune import tune_night
from iak.schemas.job import AdoptSpec, EvaluateSpec, FinetuneSpec, FrozenTablesSpec
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.predictions import BASE
from tests import dlrm_of_a_log
from tests.dlrm_log import REGIONS, dlrm_catalog, write_dlrm_log
from tests.integration import small_log

pytestmark = pytest.mark.slow

CATALOG = dlrm_catalog()
ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
STAGE = {"min_batch": 32, "max_epochs": 6, "lr": 1e-2}


def adopt(root, run_dir, catalog=CATALOG, **settings):
    asked = {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": run_dir}
    asked |= {"weights": root / "model.safetensors", "scores": {"ctr": "score"}}
    return adopt_base(AdoptSpec.model_validate(asked | settings), catalog)


def night(root, name, **more):
    asked = {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": root / name}
    asked |= {"base": root / "base", "pooled": STAGE, "domain": STAGE, "workers": 1}
    spec = FinetuneSpec.model_validate(asked | more)
    return tune_night(spec, CATALOG, ProcessLauncher())


def evaluated(root, name, **more):
    asked = {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": root / name}
    asked |= {"base": root / "base", "workers": 1}
    spec = EvaluateSpec.model_validate(asked | more)
    return evaluate(spec, CATALOG, ProcessLauncher())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_dlrm_log(tmp_path_factory.mktemp("dlrm"))
    adopt(root, root / "base")
    night(root, "night")
    return root


def weights_of(root, name):
    manifest = published_base.open_base(root / "base").manifest
    return read_bundle_set(
        root / name / "bundles",
        base_fingerprint=manifest.fingerprint,
        schema_hash=manifest.schema_hash,
    ).weights


def published_weights(run):
    """All weights of a published base, those of its tables among them, as the module names them."""
    opened = published_base.open_base(run)
    weights = {}
    for entry in opened.manifest.files:
        part = safetensors_torch.load_file(opened.folder / entry.path)
        weights |= {f"{entry.table}.weight": part["weight"]} if entry.table else part
    return weights


def test_the_base_answers_as_the_model_did(root):
    evaluated(root, "base only")
    predicted = pq.read_table(root / "base only" / "predictions" / "test-0.parquet")
    logged = [
        pq.read_table(root / f"events/region={region}/dt=2026-10-03/part.parquet")
        for region in REGIONS
    ]
    scores = np.concatenate([table["score"].to_numpy() for table in logged])
    expected = 1 / (1 + np.exp(-scores.astype(np.float64)))
    np.testing.assert_allclose(predicted[f"own.{BASE}.ctr"].to_numpy(), expected, atol=1e-6)


def test_kernels_learn_what_the_model_did_not_and_change_no_weight(root):
    before = published_weights(root / "base")
    rows = evaluated(root, "tuned", bundles=root / "night").rows
    wanted = {"all", *(f"region={region}" for region in REGIONS)}
    gains = [row for row in rows if row.method == "iak" and row.domain in wanted]
    assert len(gains) == len(wanted)
    for row in gains:
        assert row.delta_auc_low > 0.02, row
    trained = safetensors_torch.load_file(root / "model.safetensors")
    assert all(torch.equal(before[name], weight) for name, weight in trained.items())


def test_two_workers_tune_the_kernels_of_one(root):
    # At the learning rate of the other tests a rounding error grows a hundredfold in each epoch.
    slow = STAGE | {"lr": 1e-3}
    for name, workers in (("one", 1), ("two", 2)):
        night(root, name, workers=workers, pooled=slow, domain=slow)
    one, two = weights_of(root, "one"), weights_of(root, "two")
    for name, weight in one.items():
        torch.testing.assert_close(
            two[name], weight, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_state_dict_of_torch_is_read_as_well(root, tmp_path):
    result = adopt(root, tmp_path / "run", weights=root / "model.pt")
    first = published_base.open_base(root / "base").manifest
    assert result.manifest.files == first.files


def test_a_plan_places_the_tables_of_the_module_and_a_night_follows_it(root, tmp_path, capsys):
    asked = [f"catalog={root / 'dlrm.toml'}", f"base={root / 'base'}", "job=finetune"]
    files = [f"save={tmp_path / 'plan.json'}", f"json={tmp_path / 'answer.json'}"]
    sizes = ["rows=1800", "domains=2"]
    assert cli.run(["plan", *asked, *files, *sizes, "sweep=gpus=1"]) == 0
    weights = published_weights(root / "base")
    tables = {name: weights.pop(f"{name}.weight") for name in ("users", "items")}
    parameters = sum(weight.numel() for weight in weights.values())
    assert f"{parameters:,} weights" in " ".join(capsys.readouterr().out.split())
    (answer,) = json.loads((tmp_path / "answer.json").read_text())["answers"]
    assert answer["memory"][0]["dense"] == 4 * parameters
    placed = {line["table"]: (line["rows"], line["width"]) for line in answer["plan"]["tables"]}
    assert placed == {name: tuple(table_RW.shape) for name, table_RW in tables.items()}
    night(root, "planned", placement={"plan": tmp_path / "plan.json"})
    planned, unplanned = weights_of(root, "planned"), weights_of(root, "night")
    assert all(torch.equal(planned[name], weight) for name, weight in unplanned.items())


def open_module(base):
    return FrozenBase.load(base, FrozenTablesSpec(), ResolvedPlacement(), ALONE).model


def shifted(root, tmp_path):
    weights = safetensors_torch.load_file(root / "model.safetensors")
    weights["top.2.bias"] = weights["top.2.bias"] + 0.01
    safetensors_torch.save_file(weights, tmp_path / "shifted.safetensors")
    return tmp_path / "shifted.safetensors"


def test_weights_that_answer_otherwise_are_refused_with_the_first_rows(root, tmp_path):
    with pytest.raises(BadLog, match=r"gives other scores here: .*\n  row 0 of the split, ctr: "):
        adopt(root, tmp_path / "run", weights=shifted(root, tmp_path))
    assert not (tmp_path / "run/base").exists()


def test_another_source_is_refused(root):
    base = published_base.open_base(root / "base")
    spec = base.manifest.spec | {"factory_source": "0" * 64}
    changed = dataclasses.replace(base, manifest=base.manifest.model_copy(update={"spec": spec}))
    open_module(base)
    with pytest.raises(BadRequest, match="Restore that source, or adopt the base again"):
        open_module(changed)


def test_other_bytes_of_the_weights_are_refused(root):
    base = published_base.open_base(root / "base")
    for entry in base.manifest.files:
        weights = base.folder / entry.path
        kept = weights.read_bytes()
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        try:
            with pytest.raises(Corrupt):
                open_module(base)
        finally:
            weights.write_bytes(kept)


FACTORY = "from tests.plain_dlrm import build as made\n\n\ndef build():\n    return made()\n"


def test_an_allowed_source_computes_activations_of_its_own(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_model.py").write_text(FACTORY)

    def tuned(name, **base):
        catalog = dlrm_catalog(base={"kind": "torch", "factory": "shop_model:build"} | base)
        if name == "base":
            return adopt(root, tmp_path / name, catalog)
        asked = {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": tmp_path / name}
        asked |= {"base": tmp_path / "base", "pooled": STAGE, "domain": STAGE, "workers": 1}
        return tune_night(FinetuneSpec.model_validate(asked), catalog, ProcessLauncher())

    tuned("base")
    assert tuned("first").tuning.cache.rows_computed > 0
    (tmp_path / "shop_model.py").write_text(FACTORY + "# changed\n")
    with pytest.raises(BadRequest, match="Where you know that it computes the same, allow it by"):
        tuned("refused")
    source = hashlib.sha256((tmp_path / "shop_model.py").read_bytes()).hexdigest()
    allowed = tuned("allowed", source=source).tuning.cache
    assert allowed.rows_read == 0 < allowed.rows_computed
    again = tuned("again", source=source).tuning.cache
    assert again.rows_read == allowed.rows_computed
    (tmp_path / "shop_model.py").write_text(FACTORY)
    with pytest.raises(BadRequest, match=r"base\.source allows"):
        tuned("another", source=source)


def test_kernels_lift_a_dlrm_that_reads_a_whole_log(tmp_path):
    """The adoption compares the scores of the loop with those of the base, in every task."""
    small_log.write_log(tmp_path / "log", rows=20_000)
    document = small_log.catalog_document()
    rows = dlrm_of_a_log.trained_and_tuned(document, tmp_path / "log", tmp_path / "given")
    clicks = {row.method: row for row in rows if row.task == "ctr"}
    assert 0.55 < clicks["iak"].auc - clicks["iak"].delta_auc < 0.7
    assert clicks["iak"].delta_auc_low > 0
