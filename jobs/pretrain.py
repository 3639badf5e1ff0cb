"""`iak pretrain`: pre-train a base on a log and publish it."""

from collections.abc import Sequence

from iak.jobs.console_report import console_report
from iak.jobs.launchers import launcher_of
from iak.jobs.progress import console
from iak.jobs.skipped import not_ripe
from iak.jobs.tables import number, precision_costs, show_facts, show_table
from iak.pipeline.data import unseen
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.pretrain import pretrain_base
from iak.schemas.job import PretrainSpec
from iak.schemas.paths import reference_text
from iak.schemas.results import PretrainResult
from iak.schemas.training import TaskQuality, TrainingRunResult


def main(spec: PretrainSpec) -> int:
    """Pre-train a base on the catalogue's `pretrain` split and publish it."""
    with console_report() as report:
        result = pretrain_base(spec, load_catalog(spec.catalog), launcher_of(spec), report)
    show(result)
    return result.exit_code


def show(pretrained: PretrainResult) -> None:
    """Show the base, each task on validation rows, and the settings that were chosen."""
    training, record, manifest = pretrained.training, pretrained.record, pretrained.manifest
    whose = "the parent" if manifest is None else "the published base"
    _show_tasks(training.best_tasks, f"on validation rows, {whose}")
    title = "no base published"
    if manifest is not None and pretrained.base is not None:
        title = f"base {manifest.fingerprint[:12]} published at {reference_text(pretrained.base)}"
    show_facts(
        title,
        {
            "rows trained on": f"{training.rows:,} in all epochs",
            "labelled rows of an epoch": training.labelled_rows,
            "unseen ids": "; ".join(
                f"{split}: {unseen.describe(shares)}" for split, shares in training.unseen.items()
            ),
            "settings that followed from the rows": training.settings.describe(),
            "best validation loss": f"{training.best_valid_loss:.5f} "
            f"(step {training.best_step} of {training.steps})",
            **({"trials": _trials(training)} if training.trials else {}),
            **({"tables in low precision": precision_costs(manifest)} if manifest else {}),
            "not loaded as it was": "; ".join(training.loaded) or "nothing",
            "quarantined": training.contract or "nothing",
            "labels not ripe": not_ripe(training.contract, record.snapshot.splits["pretrain"].rows),
            "seconds": record.timings_s,
        },
    )
    for line in (training.not_published, *training.advice):
        if line:
            console.print(line, markup=False)


def _show_tasks(tasks: Sequence[TaskQuality], title: str) -> None:
    """Show how well the base predicts each task."""
    has_reasons = any(quality.reason for quality in tasks)
    columns = ("task", "rows", "positives", "log-loss", "AUC", "predicted/observed")
    show_table(
        title,
        (*columns, "why none") if has_reasons else columns,
        [
            (
                quality.task,
                f"{quality.rows:,}",
                f"{quality.positives:,}",
                number(quality.log_loss, 5),
                number(quality.auc),
                number(quality.calibration, 3),
                *([quality.reason] if has_reasons else []),
            )
            for quality in tasks
        ],
        ends_in_number=not has_reasons,
    )


def _trials(training: TrainingRunResult) -> str:
    """Return each trial's validation loss as text, the best one first."""
    ended = [trial for trial in training.trials if trial.best_valid_loss is not None]
    ended.sort(key=lambda trial: trial.best_valid_loss or 0.0)
    diverged = [f"{t.name} diverged" for t in training.trials if t.best_valid_loss is None]
    return ", ".join([*(f"{t.name} {t.best_valid_loss:.5f}" for t in ended), *diverged])
