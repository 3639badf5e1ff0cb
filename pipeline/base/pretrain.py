"""One worker's part in pre-training: train to the end, then measure what lower precision costs."""

import gc

from iak.pipeline.base import precision, published_base, towers
from iak.pipeline.base.best_weights import read_best
from iak.pipeline.base.trainer import (
    BEST,
    Pretraining,
    PretrainWork,
    local_rows,
)
from iak.pipeline.data.kept_steps import RowsInSteps
from iak.pipeline.events import Report
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.process import Worker
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.placement_rule import TorchRecPlan
from iak.schemas.job import Precision
from iak.schemas.manifest import PrecisionEntry
from iak.schemas.training import TrainingResult


def pretrain(work: PretrainWork, *, worker: Worker, report: Report) -> TrainingResult:
    """Train to the end, then measure what lower precision costs the best weights.

    Args:
        work: log, settings and folders.
        worker: this process.
        report: called with progress events.

    Returns:
        What the run measured, the same on every worker. The best weights are in the run's folder
        `.best`, unless `is_parent_best` says that no step improved on the parent.

    Raises:
        BadRequest: the base that is continued differs in a way that is not allowed.
        Corrupt: a file of that base or of a checkpoint is not what was written.
        Diverged: a loss is infinite or not a number.
    """
    training = Pretraining(work, worker=worker, report=report)
    result, plan, valid = training.run(), training.plan, training.valid
    if result.is_parent_best:
        return result
    if work.early_stop == "per_task":
        result = result.model_copy(update=dict(towers.tune_towers(training)))
    # The trained model and its optimisers go first, so that measuring needs no more memory.
    del training
    gc.collect()
    precisions = tuple(_measure_precisions(work, plan, valid, worker, report))
    return result.model_copy(update={"precisions": precisions})


def pretrain_on_worker(worker: Worker, work: PretrainWork, report: Report) -> TrainingResult:
    """Do one worker's part under a launcher; see `pretrain`."""
    return pretrain(work, worker=worker, report=report)


def _measure_precisions(
    work: PretrainWork, plan: TorchRecPlan, valid: RowsInSteps, worker: Worker, report: Report
) -> list[PrecisionEntry]:
    """Measure the best weights in every precision on validation rows; a collective call."""
    catalog, best = work.view.catalog, work.run_dir / BEST
    worker.files.fetch(best)
    files = read_best(best).files

    def base_in(kind: Precision) -> Recommender:
        model = published_base.build_model(catalog, work.encoding, work.model, seed=0)
        return base_weights.read_frozen_base(
            model,
            plan,
            precisions=dict.fromkeys(model.table_sizes, kind),
            directory=best,
            entries=files,
            worker=worker,
        )

    return precision.measure(
        base_in,
        valid,
        tasks=published_base.task_shapes(catalog),
        titles=[task.entire_space_title or task.title for task in catalog.tasks],
        batch_rows=local_rows(work, worker),
        worker=worker,
        report=report,
    )
