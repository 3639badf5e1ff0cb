"""Do one worker's part of an evaluation: write each row's probabilities by method to Parquet.

`predictions/<split>-<rank>.parquet` has the columns that `PredictionsDocument` lists
(schemas/predictions.py). The metadata of each file has that document under `iak`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from iak.pipeline.activations.represent import DTYPES, represent_rows
from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.collectives import total_counts
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.unseen import UnseenIds
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import Report, WorkDone
from iak.pipeline.files import putting_file
from iak.pipeline.model.loss import TaskShape, probabilities
from iak.pipeline.model.protocol import unwrap_frozen
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_predictor import BundlePredictor
from iak.pipeline.publish.bundle_set import BASE_SLOT, BundleSet, read_bundle_set
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.prediction import GateSummary, PredictionResult
from iak.schemas.predictions import (
    BASE,
    DOCUMENT,
    IAK,
    PREDICTIONS,
    PUBLISHED,
    PredictionsDocument,
    metric_tasks,
)
from iak.schemas.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictWork:
    """The work of an evaluation, the same for every worker."""

    view: LogView
    truth: Snapshot | None
    """Files of true probabilities beside a planted log; None for a real log."""
    base: PublishedBase
    bundles: Path | None
    """Folder of a night's bundles; None evaluates the base alone."""
    run_dir: Path
    splits: tuple[str, ...]
    batch_rows: int
    tables: FrozenTablesSpec
    placement: ResolvedPlacement


def predict(work: PredictWork, *, worker: Worker, report: Report) -> PredictionResult:
    """Predict every row of the splits under every method; a collective call.

    Args:
        work: log, base, bundles and settings.
        worker: this process.
        report: called with progress events.

    Returns:
        Quarantined rows by reason, the base's digest, shares of unseen ids, and the gate's verdict
        on each bundle.

    Raises:
        PipelineError: tables or trunk changed during the evaluation.
    """
    base = FrozenBase.load(work.base, work.tables, work.placement, worker)
    before = base.digest()
    kernels = None
    if work.bundles is not None:
        worker.files.fetch(work.bundles)
        bundles = read_bundle_set(
            work.bundles,
            base_fingerprint=work.base.manifest.fingerprint,
            schema_hash=work.base.manifest.schema_hash,
            catalog=work.view.catalog,
        ).to(worker.device)
        kernels = BundlePredictor(bundles, base.heads)
    contract: Counter[str] = Counter()
    unseen = {split: UnseenIds() for split in work.splits}
    for split in work.splits:
        _predict_split(work, split, base.model, kernels, worker, contract, unseen[split], report)
    if base.digest() != before:
        raise PipelineError("tables or trunk changed while they were evaluated; the result is void")
    shares = {
        split: UnseenIds.of_counts(total_counts(counted.counts(), worker)).shares()
        for split, counted in unseen.items()
    }
    gate = None
    if kernels is not None:
        verdicts = zip(kernels.bundles.names, kernels.bundles.verdicts, strict=True)
        gate = {name: _gate_summary(verdict) for name, verdict in verdicts}
    return PredictionResult(
        contract=dict(total_counts(contract, worker)),
        digest=before.combined,
        unseen=shares,
        gate=gate,
    )


def _gate_summary(verdict: Verdict) -> GateSummary:
    """Return whether a kernel is published, and which tasks hold it or were not judged."""
    return GateSummary(
        publish=verdict.publish,
        holding=verdict.holding,
        not_judged={t.task: t.reason for t in verdict.tasks if not t.judged},
    )


def document_of(work: PredictWork, split: str) -> PredictionsDocument:
    """Return the document in the metadata of a split's predictions."""
    log = work.view.catalog.log
    return PredictionsDocument(
        split=split,
        rows=work.view.selections[split].rows,
        row_id=log.row_id,
        has_users=log.user is not None,
        tasks=metric_tasks(work.view.catalog.tasks, negatives_kept=log.negatives_kept),
        methods=(BASE,) if work.bundles is None else (BASE, IAK, PUBLISHED),
        base_fingerprint=work.base.manifest.fingerprint,
    )


def _predict_split(
    work: PredictWork,
    split: str,
    model: nn.Module,
    kernels: BundlePredictor | None,
    worker: Worker,
    contract: Counter[str],
    unseen: UnseenIds,
    report: Report,
) -> None:
    """Write this worker's rows of one split; a collective call.

    Args:
        work: log, base and settings.
        split: name of the split.
        model: the frozen base.
        kernels: kernels that may serve a row; None for the base alone.
        worker: this process.
        contract: counts quarantined rows by reason.
        unseen: counts ids that the base has not seen.
        report: called after each batch.
    """
    catalog = work.view.catalog
    reader = Reader(
        selection=work.view.selections[split],
        catalog=catalog,
        encoding=work.base.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=work.view.as_of,
        truth=work.truth,
        with_ids=True,
    )
    metadata = {DOCUMENT: document_of(work, split).model_dump_json()}
    folder = work.run_dir / PREDICTIONS
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    path = folder / f"{split}-{worker.rank}.parquet"
    with _writing(path) as write:
        for rows in reader.in_step(work.batch_rows, contract):
            unseen.add(rows, catalog)
            table = _predicted(rows, model, kernels, work, worker).replace_schema_metadata(metadata)
            done += len(rows)
            if len(rows):
                write(table)
            report(WorkDone(f"{split} rows", done, reader.rows))
    if done:
        worker.files.send(path)


@contextmanager
def _writing(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends rows to a Parquet file, whose pages carry checksums.

    The file appears when it is whole. Without rows there is none.
    """
    with putting_file(path) as part:
        writers: list[pq.ParquetWriter] = []

        def write(table: pa.Table) -> None:
            if not writers:
                writers.append(
                    pq.ParquetWriter(
                        part, table.schema, compression="zstd", write_page_checksum=True
                    )
                )
            writers[0].write_table(table)

        try:
            yield write
        finally:
            for writer in writers:
                writer.close()


@torch.no_grad()
def _predicted(
    rows: pa.Table,
    model: nn.Module,
    kernels: BundlePredictor | None,
    work: PredictWork,
    worker: Worker,
) -> pa.Table:
    """Return the rows' labels, truth and probabilities."""
    catalog = work.view.catalog
    recommender = unwrap_frozen(model)
    # With the rows that fill the batch up, so that heads and kernels read a full batch too.
    h_BH, x_BX = represent_rows(
        model, rows, catalog, products=DTYPES[work.tables.products], device=worker.device
    )
    tasks = published_base.task_shapes(catalog)
    level = len(catalog.domain.levels) - 1
    columns: dict[str, Any] = {"domain": rows.column(f"l.{level}").cast(pa.string())}
    kept = (n for n in rows.schema.names if n in ("row", "id", "user") or n[:2] in ("y.", "t."))
    columns |= {n: rows.column(n) for n in kept}
    columns |= _columns(BASE, recommender.heads(h_BH), tasks, len(rows))
    if kernels is None:
        return pa.table(columns)
    bundles = kernels.bundles
    for method, published_only in ((IAK, False), (PUBLISHED, True)):
        slots = list(_slots(rows, bundles, level, published_only))
        if published_only:
            columns["served"] = _served(slots, bundles)
        slots += [BASE_SLOT] * (len(h_BH) - len(slots))
        slots_B = torch.tensor(slots, dtype=torch.int64, device=worker.device)
        s_BS = bundles.statistics(rows, catalog, slots_B)
        logits_BT = kernels.logits(h_BH, x_BX, slots_B, s_BS)
        columns |= _columns(method, logits_BT, tasks, len(rows))
    return pa.table(columns)


def _served(slots: Sequence[int], bundles: BundleSet) -> pa.Array:
    """Return the name of the kernel in each row's slot, `base` where it has none."""
    indices = pa.array([len(bundles.names) if slot == BASE_SLOT else slot for slot in slots])
    names = pa.array([*bundles.names, BASE])
    return pa.DictionaryArray.from_arrays(indices.cast(pa.int32()), names)


def _slots(rows: pa.Table, bundles: BundleSet, level: int, published_only: bool) -> Iterator[int]:
    """Yield the slot that serves each row, looked up once for each domain."""
    paths = list(
        zip(*(rows.column(f"l.{depth}").to_pylist() for depth in range(level + 1)), strict=True)
    )
    known: dict[Sequence[str], int] = {
        path: bundles.slot_for([n for n in path if n], published_only=published_only)
        for path in dict.fromkeys(paths)
    }
    return (known[path] for path in paths)


def _columns(
    method: str, logits_BT: Tensor, tasks: Sequence[TaskShape], rows: int
) -> dict[str, Any]:
    """Return the probabilities of the first `rows` rows; what follows them filled the batch up."""
    p = probabilities(logits_BT.double().cpu(), tasks)
    return {
        f"{space}.{method}.{task.name}": values[:rows, index].numpy()
        for space, values in (("own", p.own_BT), ("all", p.entire_BT))
        for index, task in enumerate(tasks)
    }
