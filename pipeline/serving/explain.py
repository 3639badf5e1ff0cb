"""Explain predictions: the kernel of each row, and what it adds to the base's logits.

Probabilities come from `Scorer.score`, so they have the same bits as those of `iak predict`. What a
kernel adds through h, adapters and skip is computed kernel by kernel (iak/contributions.py).

Shapes: B rows, T tasks; the letters of kernel.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iak.pipeline.iak.contributions import Contributions, contributions
from iak.pipeline.publish.bundle import read_manifest
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.publish.bundle_set import BASE_SLOT, BundleSet
from iak.pipeline.serving.scorer import Scorer
from iak.schemas.explaining import ExplainedTask, Explanation
from iak.schemas.log_snapshot import SplitRows
from iak.schemas.manifest import BundleManifest


class _Inputs(NamedTuple):
    """The inputs of kernels for B rows."""

    h_BH: Tensor
    x_BX: Tensor
    s_BS: Tensor | None
    """Fresh statistics; None where the kernels read none."""


@torch.no_grad()
def explain(scorer: Scorer, rows: pa.Table, bundles: Path) -> list[Explanation]:
    """Return the explanation of each encoded row, in their order.

    Args:
        scorer: the base, and the kernels of `bundles`.
        rows: rows from `encode_to_score`.
        bundles: folder of the kernels' manifests.
    """
    slots_B = scorer.routes.of(rows).slots
    parts = _contributions(scorer, rows, slots_B)
    scores = scorer.score(rows).to_pylist()
    manifests = _manifests(bundles, {score["version"] for score in scores})
    titles = [task.title for task in scorer.base.published.catalog.tasks]
    return [
        _explanation(score, parts[index], titles, manifests.get(score["version"]))
        for index, score in enumerate(scores)
    ]


def _contributions(
    scorer: Scorer, rows: pa.Table, slots_B: np.ndarray[Any, np.dtype[np.int64]]
) -> list[Contributions]:
    """Return the contributions of each row, as tensors of one row."""
    device, heads = scorer.base.worker.device, scorer.base.heads
    h_BH, x_BX = scorer.represent(rows)
    bundles = scorer.routes.bundles
    s_BS = None
    if bundles is not None:
        # The rows that fill the batch up have no kernel.
        filled_B = torch.full((len(h_BH),), BASE_SLOT)
        filled_B[: len(rows)] = torch.from_numpy(slots_B)
        s_BS = bundles.statistics(rows, scorer.counted, filled_B.to(device))
    by_row: dict[int, Contributions] = {}
    for slot in np.unique(slots_B).tolist():
        index = torch.from_numpy(np.flatnonzero(slots_B == slot)).to(device)
        if bundles is None or slot == BASE_SLOT:
            of_slot = _of_base(heads(h_BH[index]))
        else:
            inputs = _Inputs(h_BH[index], x_BX[index], None if s_BS is None else s_BS[index])
            weights = {name: stacked[slot] for name, stacked in bundles.weights.items()}
            a_BA = _standardised(bundles, slot, inputs)
            of_slot = contributions(weights, heads, inputs.h_BH, a_BA)
        for number, row in enumerate(index.tolist()):
            by_row[row] = Contributions(*(tensor[number] for tensor in of_slot))
    return [by_row[row] for row in range(len(rows))]


def _standardised(bundles: BundleSet, slot: int, inputs: _Inputs) -> Tensor:
    """Return the encoder inputs a_BA of one kernel's rows."""
    a_BA = bundles.standard(slot).of(inputs.h_BH, inputs.x_BX)
    standard = bundles.statistics_standard(slot)
    if standard is None or inputs.s_BS is None:
        return a_BA
    return torch.cat([a_BA, standard.of(inputs.s_BS)], dim=1)


def _of_base(logits_BT: Tensor) -> Contributions:
    """Return the contributions of rows that no kernel serves: nothing is added."""
    base_BT = logits_BT.double()
    nothing_BT = torch.zeros_like(base_BT)
    return Contributions(
        base_BT=base_BT,
        through_h_BT=nothing_BT,
        through_adapters_BT=nothing_BT,
        through_skip_BT=nothing_BT,
        logits_BT=base_BT,
        rate_B=torch.zeros(len(base_BT)),
    )


def _manifests(bundles: Path, versions: set[str | None]) -> dict[str | None, BundleManifest]:
    """Return the manifests of some kernels, by version."""
    return {
        entry.manifest_sha256: read_manifest(bundles / entry.folder)
        for entry in read_index(bundles).bundles
        if entry.manifest_sha256 in versions
    }


def _explanation(
    score: Mapping[str, Any],
    parts: Contributions,
    titles: list[str],
    manifest: BundleManifest | None,
) -> Explanation:
    """Return one row's explanation.

    Args:
        score: the row's prediction.
        parts: the row's contributions, T values each.
        titles: the catalogue's tasks.
        manifest: the kernel's; None where no kernel serves the row.
    """
    served = {name: score[name] for name in ("kernel", "version", "reason")}
    if score["kernel"] is None:  # the row breaks the contract, and has no prediction to explain
        return Explanation(**served)
    days = manifest.data_window.tune if manifest else SplitRows()
    return Explanation(
        **served,
        first_day=days.first,
        last_day=days.last,
        created_at=manifest.created_at if manifest else None,
        rate_nats=float(parts.rate_B) if manifest else None,
        probabilities={n.removeprefix("p."): p for n, p in score.items() if n.startswith("p.")},
        tasks=tuple(_task(title, parts, index) for index, title in enumerate(titles)),
    )


def _task(title: str, parts: Contributions, index: int) -> ExplainedTask:
    """Return one task's logit, and the parts whose sum it is."""
    base = parts.base_BT[index]
    return ExplainedTask(
        task=title,
        base_logit=float(base),
        base_probability=float(base.sigmoid()),
        through_h=float(parts.through_h_BT[index]),
        through_adapters=float(parts.through_adapters_BT[index]),
        through_skip=float(parts.through_skip_BT[index]),
        logit=float(parts.logits_BT[index]),
    )
