"""One worker's part in pre-training: try the settings, then measure what lower precision costs."""

import gc

from iak.pipeline.base import build, precision, published_base, towers
from iak.pipeline.base.best_weights import read_best
from iak.pipeline.base.pretrain_work import BEST, PretrainWork
from iak.pipeline.base.trainer import Pretraining, local_rows
from iak.pipeline.base.trials import Trial
from iak.pipeline.data.kept_steps import RowsInSteps
from iak.pipeline.errors import Diverged
from iak.pipeline.events import Report, TrialEnded, silent
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.process import Worker
from iak.pipeline.sharding import base_weights
from iak.pipeline.sharding.placement_rule import TorchRecPlan
from iak.schemas.job import Precision
from iak.schemas.manifest import PrecisionEntry
from iak.schemas.training import TrainingResult, TrialResult


def pretrain(work: PretrainWork, *, worker: Worker, report: Report) -> TrainingResult:
    """Train every trial to its end, then measure what lower precision costs the best weights.

    Args:
        work: log, settings and folders.
        worker: this process.
        report: called with progress events.

    Returns:
        What the run measured, the same on every worker. The best weights are in the folder `.best`
        of the work's `scratch`, or of that of the chosen trial (`PretrainWork.of_trial_named`),
        unless `is_parent_best` says that no step improved on the parent.

    Raises:
        BadRequest: the base that is continued differs in a way that is not allowed.
        Corrupt: a file of that base or of a checkpoint is not what was written.
        Diverged: a loss is infinite or not a number.
    """
    result, training = _best_trial(work, worker, report)
    plan, valid = training.plan, training.valid
    if result.is_parent_best:
        return result
    work = training.work
    if work.early_stop == "per_task":
        result = result.model_copy(update=dict(towers.tune_towers(training)))
    # The trained model and its optimisers go first, so that measuring needs no more memory.
    del training
    gc.collect()
    precisions = tuple(_measure_precisions(work, plan, valid, worker, report))
    return result.model_copy(update={"precisions": precisions})


def _best_trial(
    work: PretrainWork, worker: Worker, report: Report
) -> tuple[TrainingResult, Pretraining]:
    """Train every trial to its end, and return the one with the best validation loss.

    A trial that diverges has lost. Where nothing is tried, train once.

    Raises:
        Diverged: every trial diverged; the error is that of the first one.
    """
    if not work.trials:
        training = Pretraining(work, worker=worker, report=report)
        return training.run(), training
    results: dict[str, TrainingResult] = {}
    tried: list[TrialResult] = []
    diverged: list[Diverged] = []
    for number, trial in enumerate(work.trials, 1):
        training = Pretraining(work.of_trial(trial), worker=worker, report=report)
        try:
            results[trial.name] = training.run()
            training.save()  # a run that is resumed does not train this trial again
        except Diverged as error:
            diverged.append(error)
        tried.append(_trial_result(trial, results.get(trial.name)))
        report(TrialEnded(trial.name, number, len(work.trials), tried[-1].best_valid_loss))
        del training
        gc.collect()
    if not results:
        raise diverged[0]
    chosen = min(results, key=lambda name: results[name].best_valid_loss)
    result = results[chosen].model_copy(update={"trials": tuple(tried), "trial": chosen})
    # Its last checkpoint is that of a training that is over, so nothing is trained again.
    return result, Pretraining(work.of_trial_named(chosen), worker=worker, report=silent)


def _trial_result(trial: Trial, result: TrainingResult | None) -> TrialResult:
    """Return what the record says of a trial; without a result it diverged."""
    return TrialResult(
        name=trial.name,
        settings=dict(trial.settings),
        steps=result.steps if result else None,
        best_step=result.best_step if result else None,
        best_valid_loss=result.best_valid_loss if result else None,
    )


def _measure_precisions(
    work: PretrainWork, plan: TorchRecPlan, valid: RowsInSteps, worker: Worker, report: Report
) -> list[PrecisionEntry]:
    """Measure the best weights in every precision on validation rows; a collective call."""
    catalog, best = work.view.catalog, work.scratch / BEST
    worker.files.fetch(best)
    files = read_best(best).files

    def base_in(kind: Precision) -> Recommender:
        model = build.build_model(catalog, work.encoding, work.model, seed=0)
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
