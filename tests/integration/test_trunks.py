"""Each trunk and each reader of histories: pre-trained on a small log, frozen, tuned by kernels."""

import pytest

from iak.pipeline.base import published_base
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.process import run_on_workers
from iak.pipeline.tuning.finetune import finetune
from tests.integration.small_log import (
    MODEL,
    catalog,
    pretrain_spec,
    pretrain_work,
    publish,
    write_log,
)
from tests.integration.test_tuning import finetune_work

pytestmark = pytest.mark.slow


def pretrained_and_tuned(worker, place, **model):
    """What tuning returns, on a base of this model."""
    spec = pretrain_spec(place / "log", place, epochs=1, model=MODEL | model)
    work = pretrain_work(spec, catalog())
    publish(spec, work, pretrain(work, worker=worker, report=lambda _: None))
    return finetune(finetune_work(place, place / "tuned"), worker=worker, report=lambda _: None)


@pytest.mark.parametrize(
    "model",
    [
        *({"trunk": kind} for kind in ("deepfm", "dlrm", "ple")),
        *({"history": kind} for kind in ("din", "sasrec", "caser")),
    ],
    ids=lambda model: next(iter(model.values())),
)
def test_kernels_tune_on_a_frozen_base(tmp_path, model):
    write_log(tmp_path / "log")
    (tuned,) = run_on_workers(pretrained_and_tuned, 1, tmp_path, **model)
    base = published_base.open_base(tmp_path / "base")
    assert model.items() <= base.model.model_dump().items()
    assert tuned.digest == tuned.digest_before
    pooled, *_ = tuned.levels
    assert pooled.tuned.best_epoch[0] > 0
    assert pooled.tuned.best_loss[0] < pooled.tuned.start_loss[0]
