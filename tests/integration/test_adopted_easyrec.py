"""A model of TorchEasyRec as a base, by its config and its checkpoint."""

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors_torch
from torch.distributed import checkpoint

from iak.pipeline.base import published_base
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import parse_catalog
from iak.schemas.job import AdoptSpec, EvaluateSpec, FinetuneSpec
from tests.easyrec_log import REGIONS, write_easyrec_log
from tests.easyrec_models import read_reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(560)]

MODEL, SCORES = "mmoe", {"ctr": "score_ctr", "cvr": "score_cvr"}
STAGE = {"min_batch": 32, "max_epochs": 4, "lr": 1e-2}
USERS = "embedding_group.emb_impls.__BASE__.ebc.embedding_bags.user_emb"


def asked(root, run_dir, **more):
    return {"catalog": "easyrec.toml", "data_root": str(root), "run_dir": run_dir} | more


def adopt(root, run_dir, **settings):
    settings = {"weights": root / "model.ckpt-15/model", "trust": "pickle"} | settings
    settings |= {"scores": SCORES, "scores_tolerance": 1e-5}
    spec = AdoptSpec.model_validate(asked(root, run_dir, **settings))
    return adopt_base(spec, parse_catalog(root / "easyrec.toml"))


def save(folder, weights):
    """Save weights as TorchEasyRec names them in a checkpoint."""
    state = {f"model.{name}": torch.from_numpy(np.array(w)) for name, w in weights.items()}
    with pytest.warns(UserWarning, match="assuming the intent is to save in a single process"):
        checkpoint.save(state, checkpoint_id=folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("easyrec")
    weights, logits = read_reference(MODEL)
    write_easyrec_log(root, MODEL, np.array(logits))
    save(root / "model.ckpt-15/model", weights)
    adopt(root, root / "base")
    return root


def test_kernels_correct_the_model_and_no_weight_of_it_changes(root):
    """The adoption itself proved the logits that TorchEasyRec gave, to 1e-5."""
    opened = published_base.open_base(root / "base")
    before = dict(opened.manifest.digest)
    assert USERS in {table.name for table in opened.manifest.tables}
    catalog = parse_catalog(root / "easyrec.toml")
    night = asked(root, root / "night", base=root / "base", workers=2)
    night |= {"pooled": STAGE, "domain": STAGE}
    tune_night(FinetuneSpec.model_validate(night), catalog, ProcessLauncher())
    judged = asked(root, root / "tuned", base=root / "base", bundles=root / "night", workers=1)
    rows = evaluate(EvaluateSpec.model_validate(judged), catalog, ProcessLauncher()).rows
    assert {f"region={region}" for region in REGIONS} <= {row.domain for row in rows}
    assert dict(published_base.open_base(root / "base").manifest.digest) == before
    weights, _ = read_reference(MODEL)
    kept = safetensors_torch.load_file(opened.folder / "module.safetensors")
    assert all(np.array_equal(kept[name], weights[name]) for name in kept)


def test_another_model_is_refused(root, tmp_path):
    weights, _ = read_reference(MODEL)
    name = f"{USERS}.weight"
    changes = {
        "missing": ({k: w for k, w in weights.items() if k != name}, "missing: embedding_group"),
        "shape": (weights | {name: weights[name][1:]}, "of another shape: embedding_group"),
        "extra": (weights | {"mask_net.weight": weights[name]}, "unexpected: mask_net.weight"),
        "value": (weights | {name: -np.array(weights[name])}, "differ"),
    }
    for what, (changed, says) in changes.items():
        save(tmp_path / what, changed)
        with pytest.raises((BadRequest, BadLog), match=says):
            adopt(root, tmp_path / "run", weights=tmp_path / what)
    assert not (tmp_path / "run/base").exists()


def test_a_catalogue_and_a_config_that_do_not_fit_are_refused(root, tmp_path):
    catalog = (root / "easyrec.toml").read_text()
    config = (root / "pipeline.config").read_text()
    other = tmp_path / "other.config"
    for text, says in (
        (
            catalog.replace("rows = 32", "rows = 31"),
            r"\[tables.user\] of feature user has rows = 31",
        ),
        (
            catalog.replace(str(root / "pipeline.config"), str(other)),
            "data_config.fg_mode: ids are",
        ),
    ):
        other.write_text(config.replace("FG_NONE", "FG_DAG"))
        (tmp_path / "easyrec.toml").write_text(text)
        spec = asked(root, tmp_path / "run", weights=root / "model.ckpt-15/model", trust="pickle")
        with pytest.raises(BadRequest, match=says):
            adopt_base(AdoptSpec.model_validate(spec), parse_catalog(tmp_path / "easyrec.toml"))
