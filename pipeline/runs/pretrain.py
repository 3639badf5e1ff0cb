"""Pre-train a base on the `pretrain` split of a log, and publish it."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from iak.pipeline.activations.statistics import count_past
from iak.pipeline.base import defaults, published_base
from iak.pipeline.base.defaults import Recipe
from iak.pipeline.base.encoding_fit import EncodingWork, fit_on_worker
from iak.pipeline.base.pretrain_work import (
    BEST,
    CHECKPOINTS,
    TRIALS,
    PretrainWork,
    pretrain_on_worker,
)
from iak.pipeline.base.publish import BaseProvenance, publish_trained
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.base.trials import trials_of
from iak.pipeline.data import kinds, unseen, vocabulary
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import SOME_HELD, BadRequest
from iak.pipeline.events import Notice, Report, silent
from iak.pipeline.fresh.base_numbers import BaseStatistics, fit_base_statistics
from iak.pipeline.fresh.past import past_of
from iak.pipeline.launcher import Launch, Launcher
from iak.pipeline.process import Worker
from iak.pipeline.progress import summed
from iak.pipeline.registry.bases import open_base
from iak.pipeline.runs import skipped
from iak.pipeline.runs.inputs import inputs_of
from iak.pipeline.runs.load import resolve_placement
from iak.pipeline.runs.log import describe_log, list_log
from iak.pipeline.runs.outputs import base_output
from iak.pipeline.runs.preflight import (
    check_training_fits,
    check_workers,
    declared_rows,
    parent_inputs,
    plan_inputs,
)
from iak.pipeline.runs.record import (
    AlreadyFinished,
    OpenRecord,
    read_record,
    run_record,
    versions,
)
from iak.pipeline.runs.stored_run import local_run
from iak.schemas.job import PretrainSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import BaseManifest, BaseMetric
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.results import PretrainResult
from iak.schemas.training import (
    CountedRows,
    PublishedBaseResult,
    TrainingResult,
    TrainingRunResult,
    UsedSettings,
)

VALIDATION = "pretrain_valid"
UNSEEN_SHARE = "unseen_share"
"""Metric of a base: share of its validation rows' ids of a table that training never saw."""
MAY_DIFFER = ("workers", "placement", "plan", *skipped.MAY_DIFFER)
"""Settings, and the input `plan`, that may change between a checkpoint and its resumption."""
ROWS_ON_WORKERS = 20_000_000
"""Pre-training rows from which workers count them. Of fewer, counting ends before workers would
have started."""
ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
"""This process, as the only worker."""
MISCALIBRATED = 0.1
"""Distance of predicted/observed from 1 above which a task is reported as miscalibrated. The
distance must also exceed two standard deviations of the number of positives."""
MIN_TRAINED_STEPS = 300
"""Steps below which a miscalibrated task has most likely not been trained long enough."""


def pretrain_base(
    spec: PretrainSpec, catalog: Catalog, launcher: Launcher, report: Report = silent
) -> PretrainResult:
    """Pre-train a base and publish it in the run folder.

    A run that was interrupted is resumed from its last checkpoint.

    Args:
        spec: settings of `iak pretrain`.
        catalog: the log's catalogue.
        launcher: starts the workers.
        report: gets the events of the run.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met; nothing was published.
    """
    with (
        local_run(spec) as local,
        _explained(local.run_dir),
        run_record("pretrain", spec, local.run_dir, may_differ=MAY_DIFFER, report=report) as record,
    ):
        training, manifest = _pretrain(local, catalog, launcher, record)
    return PretrainResult(
        run_dir=spec.run_dir, record=record.record, training=training, manifest=manifest
    )


@contextmanager
def _explained(run_dir: Path) -> Iterator[None]:
    """Add to `AlreadyFinished` the reason why the finished run published no base, if it did not."""
    try:
        yield
    except AlreadyFinished as finished:
        before = read_record(run_dir)
        reason = before.result_as(PublishedBaseResult).not_published if before else None
        raise AlreadyFinished(f"{finished}. {reason}" if reason else str(finished)) from finished


def _pretrain(
    spec: PretrainSpec, catalog: Catalog, launcher: Launcher, record: OpenRecord
) -> tuple[TrainingRunResult, BaseManifest | None]:
    """Fit the encoding, train on workers, publish.

    Returns:
        The run's measurements, and the base's manifest. The manifest is None where no state was
        better than the base that was continued.
    """
    _refuse_given_base(spec, catalog)
    _check_weights(spec, catalog)
    valid = VALIDATION if VALIDATION in catalog.splits else "valid"
    placement = resolve_placement(spec.placement, job="pretrain")
    check_workers(spec, record.report, is_elsewhere=launcher.is_elsewhere)
    parent = open_base(spec.from_) if spec.from_ else None
    if parent is not None:
        published_base.check_continues(parent, catalog)
    # Checked twice: here with the declared sizes, before the log is read for the counted ones.
    rows = declared_rows(catalog)
    _check_fits(spec, catalog, parent, rows=rows, is_elsewhere=launcher.is_elsewhere)
    with record.phase("snapshot"):
        view = list_log(
            spec, catalog, record.report, wanted=["pretrain", valid], digests_in=spec.run_dir
        )
        others = parent_inputs(parent) | plan_inputs(placement.plan)
        record.settle_inputs(inputs_of(catalog, describe_log(view), others))
        skipped.report_skipped(view, spec, record.report)
    with record.phase("encoding"):
        labels = LabelCounts(catalog)
        findings: Counter[str] = Counter()
        encoding = fit_encoding(
            spec, view, parent, launcher, labels=labels, counts=findings, report=record.report
        )
        labels.refuse_untrainable("pretrain")
        # Vocabularies are counted by now, so tables have their true sizes.
        rows = encoding.table_rows(catalog)
        _check_fits(spec, catalog, parent, rows=rows, is_elsewhere=launcher.is_elsewhere)
        unseen_ids = unseen.count_unseen(view.selections[valid], catalog, encoding)
    recipe = recipe_of(spec, view, parent)
    settings = UsedSettings(used=recipe.described(), followed=recipe.followed)
    record.report(Notice(f"settings that follow from the rows: {settings.describe()}"))
    work = pretrain_work(spec, view, encoding, parent=parent, labels=labels, placement=placement)
    if work.trials:
        names = ", ".join(trial.name for trial in work.trials)
        record.report(Notice(f"trains with each of {len(work.trials)} sets of settings: {names}"))
    with record.phase("train"):
        trained = _train(spec, work, launcher, record.report)
    settings = settings.with_trial(trained)
    result = TrainingRunResult(
        **dict(trained),
        contract=dict(findings),
        settings=settings,
        advice=tuple(advice(trained, recipe, settings.used["optim.table_lr"])),
        labels=labels.counts(),
        labelled_rows=labels.describe(),
        unseen={valid: unseen_ids.shares()},
    )
    record.result = result
    return _publish_better(spec, work, parent, record, result)


def _train(
    spec: PretrainSpec, work: PretrainWork, launcher: Launcher, report: Report
) -> TrainingResult:
    """Train on workers."""
    launch = Launch.of(spec, pretrain_on_worker, work, TrainingResult, title="pretrain")
    return launcher.run(launch, report)


def _check_fits(
    spec: PretrainSpec,
    catalog: Catalog,
    parent: PublishedBase | None,
    *,
    rows: Mapping[str, int],
    is_elsewhere: bool,
) -> None:
    model = parent.model if parent else spec.model
    check_training_fits(spec, catalog, model, rows=rows, is_elsewhere=is_elsewhere)


def _publish_better(
    spec: PretrainSpec,
    work: PretrainWork,
    parent: PublishedBase | None,
    record: OpenRecord,
    result: TrainingRunResult,
) -> tuple[TrainingRunResult, BaseManifest | None]:
    """Publish the trained base. Where the parent is better, record that none is published.

    Returns:
        As `_pretrain`.
    """
    if result.is_parent_best:
        assert parent is not None, "only a continued base has a parent"
        result = result.model_copy(update={"not_published": _not_better(result, parent)})
        record.result = result
        record.exit_code = SOME_HELD
        _remove_scratch(spec.run_dir)
        return result, None
    with record.phase("publish"):
        manifest = publish_base(spec, work, parent, result, result.unseen)
        published = f"published {spec.run_dir / 'base'}"
        record.report(Notice(published, is_minor=True))
    result = result.model_copy(update={"fingerprint": manifest.fingerprint})
    record.result = result
    record.outputs = {"base": base_output(spec.run_dir / "base")}
    return result, manifest


def recipe_of(spec: PretrainSpec, view: LogView, parent: PublishedBase | None) -> Recipe:
    """Return the settings of this run, with those that were left open filled in."""
    return defaults.recipe(
        spec,
        rows=view.selections["pretrain"].rows,
        continues=parent is not None,
        has_state=parent is not None and parent.has_optimizer,
        chosen=parent.manifest.settings.trial_settings if parent else {},
    )


def _refuse_given_base(spec: PretrainSpec, catalog: Catalog) -> None:
    """Refuse a catalogue whose base runs elsewhere: there is nothing to train."""
    if catalog.base is not None:
        raise BadRequest(
            f"catalog {spec.catalog} has a [base] that runs elsewhere. Publish it by iak adopt, or "
            "take [base] out to train a base here"
        )


def _check_weights(spec: PretrainSpec, catalog: Catalog) -> None:
    """Refuse a weight for an unknown task."""
    titles = [task.title for task in catalog.tasks]
    if unknown := sorted(set(spec.task_weights) - set(titles)):
        raise BadRequest(f"task_weights names unknown tasks {unknown}; there are {titles}")


def _not_better(result: TrainingResult, parent: PublishedBase) -> str:
    """Return the reason why no base was published."""
    child = result.best_child_loss
    return (
        f"No base was published: on validation rows the best of {result.steps} steps has loss "
        f"{'none' if child is None else f'{child:.5f}'}, the untouched parent "
        f"{result.parent_valid_loss:.5f}. "
        f"Go on with {parent.folder}, or continue it on newer rows or at other from_rates="
    )


def advice(result: TrainingResult, recipe: Recipe, table_lr: float) -> list[str]:
    """Return advice on settings, for a run that stopped too early and a miscalibrated task.

    Args:
        result: what the workers measured.
        recipe: the settings of the run.
        table_lr: the tables' learning rate that was used.

    Returns:
        A sentence for each problem; empty without any.
    """
    lines = []
    if result.improving_at_the_end:
        lines.append(
            f"Still improving at the last validation (step {result.best_step}): raise epochs= "
            f"(now {recipe.epochs})"
        )
    for quality in result.best_tasks:
        ratio, positives = quality.calibration, quality.positives
        if ratio is None or abs(ratio - 1) <= max(MISCALIBRATED, 2 / positives**0.5):
            continue
        if result.improving_at_the_end or result.steps < MIN_TRAINED_STEPS:
            remedy = (
                f"take more steps: batch_rows={max(recipe.batch_rows // 2, 1)}, or more epochs="
            )
        else:
            remedy = (
                f"lower optim.table_lr= (now {table_lr:g}), or weigh the task more by "
                "task_weights.TASK="
            )
        lines.append(
            f"{quality.task} is miscalibrated on validation rows: predicted/observed = "
            f"{ratio:.2f} on {positives:,} positives; {remedy}"
        )
    return lines


def usual_unseen(manifest: BaseManifest) -> dict[str, float]:
    """Return, by table, the share of unseen ids on validation rows; empty for an older base."""
    shares = (metric for metric in manifest.metrics if metric.name == UNSEEN_SHARE)
    return {metric.table: metric.value for metric in shares if metric.value is not None}


def fit_encoding(
    spec: PretrainSpec,
    view: LogView,
    parent: PublishedBase | None,
    launcher: Launcher | None = None,
    *,
    labels: LabelCounts,
    counts: Counter[str],
    report: Report = silent,
) -> Encoding:
    """Fit an encoding on the pre-training rows, and save it in the run folder.

    A parent's encoding is kept. Only new features are fitted, and vocabularies that are allowed to
    grow. Weights of the parent that cannot be loaded unchanged are refused here, unless allowed.

    Args:
        spec: settings of the run; `allow` names the allowed differences from the parent.
        view: the run's view of the log.
        parent: base that is continued; None where a new one is trained.
        launcher: starts the workers, which count the rows of a large log; None counts them here.
        labels: counter of the labels of the rows that are read.
        counts: counter of the contract's findings in the rows.
        report: gets the number of rows read so far.

    Raises:
        BadRequest: the parent differs in a way that `allow` does not name.
    """
    if parent is not None:
        kinds.refuse_other_kinds(view.snapshot, view.catalog, parent.encoding.kinds)
    tables = view.catalog.table_specs
    folder = (spec.run_dir / published_base.ENCODING).resolve()
    work = EncodingWork(
        view=view,
        before=parent.encoding if parent else None,
        grown=[name for name in tables if f"table:{name}:grown" in spec.allow],
        folder=folder,
    )
    if launcher and spec.workers > 1 and view.selections["pretrain"].rows >= ROWS_ON_WORKERS:
        launch = Launch.of(spec, fit_on_worker, work, CountedRows, title="encoding")
        counted = launcher.run(launch, report)
    else:
        counted = fit_on_worker(ALONE, work, summed(report))
    labels.update(counted.labels)
    counts.update(counted.contract)
    encoding = vocabulary.load(folder)
    statistics = _base_statistics(view, parent, spec.run_dir)
    encoding = replace(encoding, fresh=statistics)
    if parent is not None:
        from iak.pipeline.base import build  # with TorchRec, which takes seconds to import

        build.check_loads(parent, view.catalog, encoding, spec.allow)
    if statistics is not None:
        statistics.write(spec.run_dir / published_base.ENCODING)
    return encoding


def _base_statistics(
    view: LogView, parent: PublishedBase | None, run_dir: Path
) -> BaseStatistics | None:
    """Count the base's fresh statistics, and standardise them; None where it reads none."""
    past = past_of(view, KeptContents(run_dir / DIGESTS), "base")
    if past is None:
        return None
    catalog = view.catalog.counting("base")
    state = count_past(past, catalog, None, ALONE)
    before = parent.encoding.fresh if parent else None
    if isinstance(before, BaseStatistics) and before.state.definition == state.definition:
        return replace(before, state=state)  # the parent's weights know its standardisation
    return fit_base_statistics(state, catalog, view.raw_rows("pretrain"))


def pretrain_work(
    spec: PretrainSpec,
    view: LogView,
    encoding: Encoding,
    *,
    parent: PublishedBase | None,
    labels: LabelCounts,
    placement: ResolvedPlacement,
) -> PretrainWork:
    """Return the workers' part of a run.

    Args:
        spec: settings of the run.
        view: the run's view of the log.
        encoding: encoding fitted on the pre-training rows.
        parent: the base that is continued; None where a new one is trained.
        labels: the labels of the pre-training rows. A new base starts with their rates as biases.
        placement: placement of every table, by the rule or by a plan.

    Raises:
        BadRequest: the plan is for other tables or workers.
    """
    model = parent.model if parent else spec.model
    shapes = published_base.table_shapes(view.catalog, encoding, model)
    if placement.plan is not None:
        from iak.pipeline.sharding.placement_rule import planned  # with TorchRec, as above

        planned(placement.plan, shapes, world=spec.workers, device=torch.device("cpu"))
    recipe = recipe_of(spec, view, parent)
    return PretrainWork(
        view=view,
        encoding=encoding,
        rates=None if parent else labels.rates,
        model=model,
        optim=recipe.optim,
        run_dir=spec.run_dir.resolve(),
        from_base=parent.folder.resolve() if parent else None,
        allow=spec.allow,
        seed=spec.seed,
        batch_rows=recipe.batch_rows,
        epochs=recipe.epochs,
        patience=recipe.patience,
        validations_per_epoch=recipe.validations_per_epoch,
        shuffle_rows=spec.shuffle_rows,
        bf16=spec.bf16,
        placement=placement,
        checkpoint_every_steps=spec.checkpoint_every_steps,
        task_weights=dict(spec.task_weights),
        early_stop=spec.early_stop,
        trials=trials_of(
            spec,
            recipe.optim,
            rows=view.selections["pretrain"].rows,
            table_bytes=sum(shape.rows * shape.width * 4 for shape in shapes),
            continues=parent is not None,
            has_plan=placement.plan is not None,
        ),
    )


def publish_base(
    spec: PretrainSpec,
    work: PretrainWork,
    parent: PublishedBase | None,
    result: TrainingResult,
    unseen_shares: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> BaseManifest:
    """Publish the best weights of a run as its base.

    Args:
        spec: settings of the run; its folder has the best weights.
        work: what the workers trained.
        parent: the base that was continued; None where a new one was trained.
        result: what the workers measured.
        unseen_shares: by split, each table's share of unseen ids.
    """
    provenance = BaseProvenance(
        spec=spec,
        snapshot=describe_log(work.view).without_files(),
        versions=versions(),
    )
    metrics = [
        BaseMetric(name=UNSEEN_SHARE, table=table, value=share)
        for shares in unseen_shares.values()
        for table, share in shares.items()
    ]
    manifest = publish_trained(work, result, provenance, parent=parent, metrics=metrics)
    _remove_scratch(spec.run_dir)
    return manifest


def _remove_scratch(run_dir: Path) -> None:
    """Remove the files that a run needs only until it ends."""
    for scratch in (CHECKPOINTS, BEST, TRIALS, published_base.ENCODING):
        shutil.rmtree(run_dir / scratch, ignore_errors=True)
