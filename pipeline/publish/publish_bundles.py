"""Publish tuned kernels: let the gate judge each, and write each as a bundle with its verdict."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torch import Tensor

from iak.pipeline.activations.cache import digest_of
from iak.pipeline.events import Report, WorkDone, silent
from iak.pipeline.files import putting_file
from iak.pipeline.fresh.state import STATISTICS
from iak.pipeline.publish.bundle import StatisticsFile, write_bundle
from iak.pipeline.publish.bundle_index import publishing_bundles
from iak.pipeline.publish.diagnostics import code_of, curves_of, mean_rate, path_of
from iak.pipeline.publish.gate import GateRows, judge_each
from iak.pipeline.publish.gate_tasks import gate_rows_of
from iak.pipeline.publish.judge_chains import REPORT_EVERY, ChainJudge, NightChains
from iak.pipeline.tuning.work import Finetuned, Level
from iak.schemas.job import GateSpec
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleSettings, StatisticsEntry
from iak.schemas.predictions import MetricTask
from iak.schemas.tuning import KernelResult, StandardisationResult, TuningResult
from iak.schemas.verdict import Verdict

STANDARD = "standard_"
"""Beginning of the names of a bundle's standardisation tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Fields that all bundles of a run share."""

    base_fingerprint: str
    schema_hash: str
    """Digest of the encoded inputs."""
    data_window: DataWindow
    spec: BundleSettings
    """Settings of the kernel and its tuning."""
    versions: Mapping[str, str]
    """Versions of the libraries, by name."""
    created_at: datetime


def publish_bundles(
    done: Finetuned,
    root: Path,
    *,
    provenance: Provenance,
    tasks: Sequence[MetricTask],
    gate: GateSpec,
    chains: NightChains | None = None,
    report: Report = silent,
) -> list[KernelResult]:
    """Judge every kernel on its gate rows and publish the night's bundles, all of them at once.

    Args:
        done: the tuned levels.
        root: folder of the bundles. What it had before is replaced when all are written.
        provenance: fields that all bundles share.
        tasks: tasks that metrics measure.
        gate: floors, margins, and the standard errors that a gain must exceed.
        chains: the chains before this night, whose evidence then decides; None judges one night.
        report: called with progress events.

    Returns:
        Every kernel that did not diverge, level by level.
    """
    kernels: list[KernelResult] = []
    number = sum(len(level.tuned.bank.names) - len(level.tuned.failed) for level in done.levels)
    chain_judge = chains and ChainJudge(
        chains,
        titles=done.tasks,
        tasks=tasks,
        gate=gate,
        base_fingerprint=provenance.base_fingerprint,
        live=done.live,
    )
    with publishing_bundles(root) as folder, _statistics_file(done, folder) as statistics:
        for depth, level in enumerate(done.levels):
            pooled = done.levels[0].tuned.bank.slot(0) if depth else None
            # A kernel that failed was set back to its start, so there is nothing new to judge.
            bank, failed = level.tuned.bank, level.tuned.failed
            slots = {name: slot for slot, name in enumerate(bank.names) if name not in failed}
            each = [gate_rows_of(level.gate_rows.get(name), done.tasks, tasks) for name in slots]
            judged = chain_judge.judge(level, report) if chain_judge else {}
            verdicts = [judged[n].verdict for n in slots] if judged else judge_each(each, gate)
            for (name, slot), gate_rows, verdict in zip(slots.items(), each, verdicts, strict=True):
                chained, weights = judged.get(name), bank.slot(slot)
                kernel = _write_kernel(
                    done, level, slot, weights, folder, provenance, verdict, statistics
                )
                measured = _measured(level, name, gate_rows, weights, pooled)
                measured["chain"] = chained.chain if chained else None
                kernels.append(kernel.model_copy(update=measured))
                if len(kernels) % REPORT_EVERY == 0:
                    report(WorkDone("kernels written", len(kernels), number))
    return kernels


def _measured(
    level: Level,
    name: str,
    gate_rows: GateRows,
    weights: Mapping[str, Tensor],
    pooled: Mapping[str, Tensor] | None,
) -> dict[str, object]:
    """Return what a kernel's result shows besides its verdict, by field.

    Args:
        level: level of the kernel.
        name: name of its domain.
        gate_rows: its gate rows, task by task.
        weights: its weights, by name.
        pooled: weights of the pooled kernel; None for that kernel itself.
    """
    rows = level.gate_rows.get(name)
    return {
        "rate": mean_rate(rows),
        "code": code_of(rows, gate_rows, weights, pooled),
        "path": path_of(level.tuned.path.get(name, ())),
        "reliability": curves_of(gate_rows),
    }


@contextmanager
def _statistics_file(done: Finetuned, folder: Path) -> Iterator[StatisticsFile | None]:
    """Yield a file of the statistics that all bundles share; it is removed when each has a link."""
    if done.statistics is None:
        yield None
        return
    state = done.statistics.state
    path = folder / f".{STATISTICS}"
    with putting_file(path) as part:
        state.write(part)
    entry = StatisticsEntry(definition=state.definition, state=state.id)
    try:
        yield StatisticsFile(path=path, entry=entry)
    finally:
        path.unlink(missing_ok=True)


def tuning_result(done: Finetuned, kernels: Sequence[KernelResult]) -> TuningResult:
    """Return the result of a run, for its record.

    Args:
        done: the tuned levels.
        kernels: results of `publish_bundles`.
    """
    standard = StandardisationResult.model_validate(
        {"from": done.standard_from, "digest": digest_of(*done.standard.tensors().values())}
    )
    return TuningResult(
        kernels=tuple(kernels),
        below_floor=dict(done.below_floor),
        not_reached=done.not_reached,
        failed={n: why for level in done.levels for n, why in level.tuned.failed.items()},
        stopped_at_cap=tuple(n for level in done.levels for n in level.tuned.stopped_at_cap),
        epochs=tuple(level.tuned.epochs for level in done.levels),
        contract=dict(done.contract),
        labels=dict(done.labels),
        cache=done.cache,
        standardisation=standard,
        digest=done.digest,
        digest_before=done.digest_before,
        tables_and_trunk_unchanged=done.digest == done.digest_before,
        parameters_per_kernel=done.parameters_per_kernel,
        gate_seconds=done.gate_seconds,
        plan=tuple(done.plan),
    )


def _write_kernel(
    done: Finetuned,
    level: Level,
    slot: int,
    weights: Mapping[str, Tensor],
    folder: Path,
    provenance: Provenance,
    verdict: Verdict,
    statistics: StatisticsFile | None,
) -> KernelResult:
    """Write one kernel's bundle with its verdict.

    Args:
        done: the tuned levels, with their standardisation.
        level: level of the kernel.
        slot: slot of the kernel in the level's bank.
        weights: the kernel's weights, by name.
        folder: folder of bundles.
        provenance: fields that all bundles share.
        verdict: verdict of the gate.
        statistics: the statistics that the kernel reads; None for none.
    """
    name = level.tuned.bank.names[slot]
    # Only compression used the probe.
    tensors = {n: t for n, t in weights.items() if not n.startswith("probe")}
    tensors |= {f"{STANDARD}{n}": t for n, t in done.standard.tensors().items()}
    if done.statistics is not None:
        standard = done.statistics.standard.tensors()
        tensors |= {f"{STANDARD}{n}": t for n, t in standard.items()}
    rows = level.rows.get(name, 0)
    path = write_bundle(
        folder,
        tensors,
        domain=level.domains[name].as_dict() or None,
        base_fingerprint=provenance.base_fingerprint,
        schema_hash=provenance.schema_hash,
        data_window=provenance.data_window.model_copy(update={"tuning_rows": rows}),
        spec=provenance.spec,
        verdict=verdict,
        versions=provenance.versions,
        created_at=provenance.created_at,
        statistics=statistics,
    )
    tuned = level.tuned
    return KernelResult(
        domain=name,
        tuning_rows=rows,
        published=verdict.publish,
        reason=verdict.reason,
        gate=verdict,
        best_epoch=tuned.best_epoch[slot],
        valid_gain=tuned.start_loss[slot] - tuned.best_loss[slot],
        own_share=tuned.own_share.get(name),
        outside=level.outside.get(name),
        bundle=path.name,
    )
