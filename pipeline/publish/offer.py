"""Tuned kernels before the gate: judge each, and write each as a bundle with its verdict."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.publish.bundle import write_bundle
from pipeline.publish.gate import GateRows, Verdict, judge
from pipeline.stats.auc import PairedAuc, paired_auc
from pipeline.training.finetune import Finetuned, Level
from pipeline.training.judged import Judged

STANDARD = "standard_"
"""How the names of a bundle's standardisation begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """What every bundle of a run says besides its own kernel."""

    base_fingerprint: str
    schema_hash: str
    data_window: Mapping[str, Any]
    spec: Mapping[str, Any]
    versions: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One kernel after the gate."""

    domain: str
    rows: int
    verdict: Verdict
    path: Path
    best_epoch: int
    valid_gain: float


def offer(done: Finetuned, root: Path, *, papers: Papers, z: float, min_rows: int) -> list[Offer]:
    """Judge every kernel on its gate rows and write its bundle, published or held.

    Args:
        done: the tuned levels.
        root: folder of the bundles.
        papers: what all bundles share.
        z: standard errors a gain must exceed.
        min_rows: gate rows below which a kernel is held.
    """
    offers = []
    for level in done.levels:
        for slot, name in enumerate(level.tuned.bank.names):
            offers.append(_offer_one(done, level, slot, name, root, papers, z=z, min_rows=min_rows))
    return offers


def _offer_one(
    done: Finetuned,
    level: Level,
    slot: int,
    name: str,
    root: Path,
    papers: Papers,
    *,
    z: float,
    min_rows: int,
) -> Offer:
    rows = level.judged.get(name)
    compared = _paired(rows) if rows is not None else None
    verdict = judge(_gate_rows(rows, compared), z=z, min_rows=min_rows)
    tensors = level.tuned.bank.slot(slot)
    tensors = {n: t for n, t in tensors.items() if not n.startswith("probe")}
    tensors |= {f"{STANDARD}{n}": t for n, t in done.standard.tensors().items()}
    path = write_bundle(
        root,
        tensors,
        domain=level.domains[name].as_dict() or None,
        base_fingerprint=papers.base_fingerprint,
        schema_hash=papers.schema_hash,
        data_window=dict(papers.data_window) | {"tuning_rows": level.rows.get(name, 0)},
        spec=papers.spec,
        metrics=_metrics(done, rows),
        verdict=asdict(verdict),
        versions=papers.versions,
        created_at=papers.created_at,
    )
    tuned = level.tuned
    return Offer(
        domain=name,
        rows=level.rows.get(name, 0),
        verdict=verdict,
        path=path,
        best_epoch=tuned.best_epoch[slot],
        valid_gain=tuned.start_loss[slot] - tuned.best_loss[slot],
    )


def _gate_rows(rows: Judged | None, compared: PairedAuc | None) -> GateRows:
    if rows is None:
        return GateRows(base_loss=np.zeros(0), candidate_loss=np.zeros(0))
    labelled = rows.mask_nT.any(axis=1)
    return GateRows(
        base_loss=rows.base_loss[labelled],
        candidate_loss=rows.candidate_loss[labelled],
        auc=compared,
    )


def _paired(rows: Judged, task: int = 0) -> PairedAuc | None:
    mask = rows.mask_nT[:, task]
    labels = rows.labels_nT[mask, task]
    return paired_auc(labels, rows.candidate_p_nT[mask, task], rows.base_p_nT[mask, task])


def _metrics(done: Finetuned, rows: Judged | None) -> list[dict[str, Any]]:
    """AUC of base and candidate on the gate slice, by task, over all rows."""
    if rows is None:
        return []
    lines = []
    for task, name in enumerate(done.tasks):
        found = _paired(rows, task)
        if found is not None:
            lines.append(
                {
                    "split": "gate",
                    "task": name,
                    "rows": int(rows.mask_nT[:, task].sum()),
                    "auc": found.auc_a,
                    "base_auc": found.auc_b,
                    "delta_auc": found.delta,
                    "delta_auc_low": found.low,
                    "delta_auc_high": found.high,
                }
            )
    return lines
