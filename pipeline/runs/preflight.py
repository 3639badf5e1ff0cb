"""Check before workers start that documents, memory and devices fit together.

Starting Ray and its workers takes tens of seconds, a snapshot of a long log minutes. These checks
read documents only, no weights.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from iak.pipeline.base import precision, published_base
from iak.pipeline.base.dense_parts import build_dense
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.events import Notice, Report
from iak.pipeline.publish.bundle_index import check_index, find_bundles
from iak.pipeline.registry.bases import open_base
from iak.pipeline.sharding.row_format import row_bytes
from iak.pipeline.tuning.checkpoint import CHECKPOINT
from iak.schemas.given_base import ModuleBaseSpec
from iak.schemas.job import FrozenTablesSpec, ModelSpec, WorkerJobSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import sha256_of
from iak.schemas.plan import PlanDocument

WORKER_GIB = 0.5
"""Memory of a worker before its first row: torch, torchrec and Ray (470 MiB, torch 2.13)."""
_GIB = 2**30
_STATE_BYTES = 4
"""Bytes of row-wise Adagrad's accumulator of a row."""
_DENSE_BYTES = 4 * 4
"""Bytes of a dense weight, its gradient and AdamW's two moments, in fp32, on every worker."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def check_workers(spec: WorkerJobSpec, report: Report, *, is_elsewhere: bool) -> None:
    """Refuse workers without a GPU or memory for each; warn where they are more than the cores.

    Args:
        spec: names the workers and their device.
        report: gets the warning.
        is_elsewhere: whether workers run on other machines, of which nothing is known here.

    Raises:
        DoesNotFit: device=cuda with more workers than this machine has GPUs, or more workers than
            its memory holds with nothing but their libraries.
    """
    if is_elsewhere:
        return
    gpus = torch.cuda.device_count()
    if spec.device == "cuda" and gpus < spec.workers:
        raise DoesNotFit(
            f"device=cuda with workers={spec.workers}, but this machine has {gpus} GPUs that torch "
            "sees. Ask for fewer workers, or device=cpu"
        )
    memory_gib = memory_bytes() / _GIB
    if spec.workers * WORKER_GIB > memory_gib:
        raise DoesNotFit(
            f"workers={spec.workers} need about {spec.workers * WORKER_GIB:.0f} GiB for their "
            f"libraries alone, and this machine has {memory_gib:.0f} GiB. Ask for as many workers "
            "as it has cores or GPUs, or for a cluster by RAY_ADDRESS"
        )
    cores = os.cpu_count() or 1
    if spec.workers > cores and not gpus:
        report(Notice(f"workers={spec.workers} share {cores} cores; fewer would be as fast"))


def memory_bytes() -> int:
    """Return the bytes of this machine's memory, or its container's limit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP.read_text().strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory


def check_training_fits(
    spec: WorkerJobSpec,
    catalog: Catalog,
    model: ModelSpec,
    *,
    rows: Mapping[str, int],
    is_elsewhere: bool,
) -> None:
    """Refuse tables, trunk and towers that all workers' memory cannot hold while they are trained.

    The bytes are a lower bound: weights and optimiser state, without batches and activations.

    Args:
        spec: names the workers and their device.
        catalog: the log's catalogue.
        model: shape of the base.
        rows: rows of each table; a table whose rows are not counted yet is left out.
        is_elsewhere: whether workers run on other machines, of which nothing is known here.

    Raises:
        DoesNotFit: the message names the largest table, or the trunk.
    """
    if is_elsewhere:
        return
    tables = {
        name: rows.get(name, 0) * ((table.width or model.width) * 4 + _STATE_BYTES)
        for name, table in catalog.table_specs.items()
    }
    # Tables are divided among the workers. Each worker has the whole dense part.
    dense = _dense_weights(catalog, model) * _DENSE_BYTES * spec.workers
    room, where = _room(spec)
    if sum(tables.values()) + dense <= room:
        return
    if dense > sum(tables.values()):
        raise DoesNotFit(
            f"trunk and towers of {spec.workers} workers need {dense / _GIB:,.0f} GiB with AdamW's "
            f"state, and {where}. Lower model.mlp (now {list(model.mlp)}), model.expert_width, "
            "model.experts, model.tower_width or model.cross_layers"
        )
    largest = max(tables, key=lambda name: tables[name])
    width = catalog.table_specs[largest].width or model.width
    raise DoesNotFit(
        f"the tables need {sum(tables.values()) / _GIB:,.0f} GiB in fp32 with Adagrad's state, and "
        f"{where}. The largest is tables.{largest}: {rows[largest]:,} rows of width {width:,}, "
        f"{tables[largest] / _GIB:,.0f} GiB. Lower its rows or its width (model.width where it "
        "states none), or run on a cluster by RAY_ADDRESS; iak plan says on which"
    )


def declared_rows(catalog: Catalog) -> dict[str, int]:
    """Return the rows of the tables whose size is declared, and not counted in the log."""
    return {
        name: table.rows
        for name, table in catalog.table_specs.items()
        if table.rows is not None and table.encoding != "vocabulary"
    }


def check_frozen_fits(
    spec: WorkerJobSpec, opened: PublishedBase, tables: FrozenTablesSpec, *, is_elsewhere: bool
) -> None:
    """Refuse frozen tables that all workers' memory cannot hold; mapped ones stay on disk.

    Args:
        spec: names the workers and their device.
        opened: the base whose tables are frozen.
        tables: the precision of the tables, and whether they are mapped.
        is_elsewhere: whether workers run on other machines, of which nothing is known here.

    Raises:
        DoesNotFit: the message names the size, and the precision that is asked for.
    """
    if is_elsewhere:
        return
    precisions = precision.precisions_of(opened.manifest, tables)
    needed = sum(t.rows * row_bytes(precisions[t.name], t.width) for t in opened.manifest.tables)
    room, where = _room(spec)
    if needed > room and not tables.mapped:
        raise DoesNotFit(
            f"the base's tables need {needed / _GIB:,.0f} GiB in tables.precision="
            f"{tables.precision}, and {where}. Take a lower precision, tables.mapped=true, or a "
            "cluster by RAY_ADDRESS"
        )


def _room(spec: WorkerJobSpec) -> tuple[float, str]:
    """Return the bytes of memory that all workers have together, and a clause about them."""
    if spec.device != "cpu" and torch.cuda.device_count() >= spec.workers:
        room = torch.cuda.get_device_properties(0).total_memory * spec.workers
        return room, f"{spec.workers} GPUs have {room / _GIB:,.0f} GiB"
    room = memory_bytes()
    return room, f"this machine has {room / _GIB:,.0f} GiB of memory"


def _dense_weights(catalog: Catalog, model: ModelSpec) -> int:
    """Count all weights but the tables'. On the device `meta` they take no memory."""
    with torch.device("meta"):
        parts = build_dense(catalog, model)
    return sum(p.numel() for part in parts if part is not None for p in part.parameters())


def open_frozen_base(
    path: Path, catalog: Catalog, tables: FrozenTablesSpec, report: Report | None = None
) -> PublishedBase:
    """Open a base that workers will freeze.

    Args:
        path: run folder, published base, or `registry:PLACE@ALIAS`.
        catalog: the log's catalogue; it must read what the base was trained on.
        tables: the precision of its tables.
        report: gets the tasks that its validation rows could not judge in that precision, or not
            surely; None reports nothing.

    Raises:
        BadRequest: there is no base, its catalogue is another one, or a precision costs too much.
        Corrupt: its manifest was changed.
    """
    opened = open_base(path)
    published_base.check_same_schema(opened, catalog)
    for sentence in precision.check(opened.manifest, tables):
        if report is not None:
            report(Notice(sentence, is_minor=True))
    return _with_source(opened, catalog)


def _with_source(opened: PublishedBase, catalog: Catalog) -> PublishedBase:
    """Return a base that is built by the source which the catalogue names, if it names one."""
    base, adopted = catalog.base, opened.manifest.settings.factory_source
    if not isinstance(base, ModuleBaseSpec) or base.source in (None, adopted):
        return opened
    return replace(opened, allowed_source=base.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlesFolder:
    """A folder of bundles whose index was verified."""

    path: Path
    digest: str
    """Digest of the index, which names every manifest and its weights by SHA-256."""


def bundles_folder(path: Path, opened: PublishedBase, *, setting: str) -> BundlesFolder:
    """Return the folder of bundles at or below a path, its index verified.

    Args:
        path: run folder of an `iak finetune`, or its bundles/.
        opened: the base that the bundles must have been tuned on.
        setting: name of the setting that gave the path, for messages.

    Raises:
        BadRequest: there is no bundle, or no index that names them.
        WrongBase: they were tuned on another base.
        Corrupt: they are not those that the index names.
    """
    folder = find_bundles(path)
    if folder is None:
        what = "is empty of bundles" if path.is_dir() else "does not exist"
        if (path / CHECKPOINT).exists():
            what = (
                "is of a night that was killed before it was published; run its `iak finetune` "
                "again with the same settings: it resumes"
            )
        raise BadRequest(
            f"{setting}={path} {what}. Expected: the run folder of an `iak finetune`, or its "
            "bundles/"
        )
    index = check_index(
        folder,
        base_fingerprint=opened.manifest.fingerprint,
        schema_hash=opened.manifest.schema_hash,
    )
    return BundlesFolder(path=folder.resolve(), digest=index.sha256)


# ---------------------------------------------------------------- what a run reads, by content


def base_inputs(opened: PublishedBase, *, name: str = "base") -> dict[str, str]:
    """Return the digests of a published base and of its encoding."""
    manifest = opened.manifest
    return {name: manifest.fingerprint, f"encoding of the {name}": manifest.schema_hash}


def parent_inputs(parent: PublishedBase | None) -> dict[str, str]:
    """Return the digests of a base that is continued, and of its optimisers' state.

    The state is not part of a base's fingerprint, but decides the rates of continued training.
    """
    if parent is None:
        return {}
    entries = parent.manifest.optimizer if parent.has_optimizer else []
    state = sha256_of({"files": [entry.model_dump(mode="json") for entry in entries]})
    name = "base that is continued"
    return base_inputs(parent, name=name) | {f"optimisers' state of the {name}": state}


def plan_inputs(plan: PlanDocument | None) -> dict[str, str]:
    """Return the digest of a sharding plan, where one is followed."""
    return {} if plan is None else {"plan": sha256_of(plan.model_dump(mode="json"))}


def bundles_inputs(bundles: BundlesFolder | None, *, name: str) -> dict[str, str]:
    """Return the digest of a folder of bundles, where one is read."""
    return {} if bundles is None else {name: bundles.digest}
