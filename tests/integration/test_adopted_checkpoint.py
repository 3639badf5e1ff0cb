"""A DLRM of TorchRec that two ranks trained, adopted from the checkpoint that they wrote."""

import pytest
import torch
from torch.distributed import checkpoint

from iak.pipeline.errors import BadRequest
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import parse_catalog
from iak.schemas.job import AdoptSpec, EvaluateSpec, FinetuneSpec
from tests import torchrec_dlrm
from tests.dlrm_log import REGIONS, write_torchrec_log
from tests.integration.test_adopted_module import STAGE, published_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(560)]

USERS = "model.model.sparse_arch.embedding_bag_collection.embedding_bags.t_user.weight"


def asked(root, run_dir, **more):
    return {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": run_dir} | more


def adopt(root, run_dir, **settings):
    settings = {"weights": root / "checkpoint", "scores": {"ctr": "score"}} | settings
    spec = AdoptSpec.model_validate(asked(root, run_dir, **settings))
    return adopt_base(spec, parse_catalog(root / "dlrm.toml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_torchrec_log(tmp_path_factory.mktemp("torchrec"))
    adopt(root, root / "base", trust="pickle")
    return root


def test_the_table_that_was_cut_by_rows_is_whole_in_the_base(root):
    """The adoption itself proved the scores that both ranks gave, to its tolerance."""
    metadata = checkpoint.FileSystemReader(root / "checkpoint").read_metadata()
    pieces = metadata.state_dict_metadata[USERS].chunks
    assert sorted(tuple(piece.sizes) for piece in pieces) == [(30, 8), (31, 8)]
    weights = published_weights(root / "base")
    assert weights.keys() == torchrec_dlrm.build().state_dict().keys()
    users = weights[USERS.removeprefix("model.model.")]
    assert users.shape == (torchrec_dlrm.USERS, torchrec_dlrm.WIDTH)
    assert len(torch.unique(users, dim=0)) == len(users)


def test_kernels_learn_what_the_model_did_not(root):
    catalog = parse_catalog(root / "dlrm.toml")
    night = asked(root, root / "night", base=root / "base", workers=1)
    night |= {"pooled": STAGE, "domain": STAGE}
    tune_night(FinetuneSpec.model_validate(night), catalog, ProcessLauncher())
    judged = asked(root, root / "tuned", base=root / "base", bundles=root / "night", workers=1)
    rows = evaluate(EvaluateSpec.model_validate(judged), catalog, ProcessLauncher()).rows
    wanted = {f"region={region}" for region in REGIONS}
    gains = [row for row in rows if row.method == "iak" and row.domain in wanted]
    assert len(gains) == len(wanted)
    for row in gains:
        assert row.delta_auc_low > 0.02, row


def test_a_checkpoint_is_refused_before_the_log_is_read(root, tmp_path):
    for settings, says in (
        ({}, "say trust=pickle"),
        ({"weights": "registry:/shop@champion"}, "never read from a registry"),
        ({"weights": root / "dlrm.toml", "trust": "pickle"}, "Leave trust= out"),
    ):
        with pytest.raises(BadRequest, match=says):
            adopt(root, tmp_path / "run", **settings)
    assert not (tmp_path / "run/base").exists()
