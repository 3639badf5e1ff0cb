"""Publish an adopted module with its tables, and prove that it opens as the module that it was."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from iak.pipeline.base import adopted_module, precision, published_base
from iak.pipeline.base.module_tables import (
    Rows,
    TablesOnWorker,
    is_same,
    judged_tables,
    write_module,
)
from iak.pipeline.base.module_weights import ModuleFiles
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.reader import Reader
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.digest import digest
from iak.pipeline.process import Worker
from iak.pipeline.runs.adoption import BATCH_ROWS, AdoptedFiles
from iak.pipeline.sharding import rectangles
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.shard import dense_state
from iak.schemas.job import Precision
from iak.schemas.manifest import PrecisionEntry
from iak.schemas.plan import ResolvedPlacement

TRIED_ROWS = 512
"""Rows that the module must answer alike with its tables and without them."""
_ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
_REASON = "with its tables frozen, the opened base answers otherwise than the module"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModule:
    """A module whose weights lie in a base's folder."""

    written: AdoptedFiles
    advice: tuple[str, ...]
    """A sentence for each table that stays whole on every worker."""


def publish_module(
    model: AdoptedModel,
    folder: Path,
    *,
    factory: str,
    source: str,
    reader: Reader,
    report: Report,
) -> PublishedModule:
    """Write a module's weights and tables, and measure what a lower precision of these costs.

    Args:
        model: the module with its weights.
        folder: folder of the base.
        factory: the function that builds the module.
        source: SHA-256 of the source file of the factory.
        reader: reads the validation rows.
        report: called with progress events.

    Raises:
        BadRequest: the base that is opened from the folder is another model.
    """
    table = next(iter(reader.in_step(TRIED_ROWS)))
    batch = to_batch(table, reader.catalog)
    rows, tasks = (batch.ids, batch.numeric_BN), model.heads.tasks
    found = judged_tables(model, rows)
    names, whole = list(found.tables), dict(found.whole)
    files = write_module(model.module, names, folder, source=source)
    opened = _opened(factory, files, "fp32", tasks)
    if names and not _opens_alike(model, opened, rows):
        shutil.rmtree(folder / rectangles.WEIGHTS)
        whole |= dict.fromkeys(names, _REASON)
        files = write_module(model.module, [], folder, source=source)
        opened = _opened(factory, files, "fp32", tasks)
    if not _agree(model, opened, rows):
        raise BadRequest(
            f"base.factory={factory} builds a module that answers otherwise each time it is built, "
            "although its weights are the same. Make what it computes a function of its weights "
            "and of its source"
        )
    shards = opened.tables.local_shards() if isinstance(opened.tables, FrozenTables) else []
    return PublishedModule(
        written=AdoptedFiles(
            files=files.files,
            tables=files.tables,
            digest=digest(shards, dense_state(opened)).by_name,
            precisions=_precisions(factory, files, reader, report) if files.tables else (),
            factory_source=source,
        ),
        advice=tuple(
            f"Table {name} stays whole on every worker: {why}" for name, why in whole.items()
        ),
    )


def _opened(factory: str, files: ModuleFiles, kind: Precision, tasks: int) -> AdoptedModel:
    """Open the base with all its tables in one precision."""
    at = TablesOnWorker(
        worker=_ALONE,
        precisions=dict.fromkeys((table.name for table in files.tables), kind),
        placement=ResolvedPlacement(),
    )
    return adopted_module.open_module(
        factory, files, tasks=tasks, at=at, allowed_source=files.source
    )


@torch.no_grad()
def _agree(one: AdoptedModel, other: AdoptedModel, rows: Rows) -> bool:
    """Return whether two models give the same logits, bit for bit."""
    return is_same(one(*rows), other(*rows))


def _opens_alike(one: AdoptedModel, other: AdoptedModel, rows: Rows) -> bool:
    """Return whether two models agree, and both can answer."""
    try:
        return _agree(one, other, rows)
    except Exception:  # noqa: BLE001 - code of others, which may keep a table without values
        return False


def _precisions(
    factory: str, files: ModuleFiles, reader: Reader, report: Report
) -> list[PrecisionEntry]:
    """Measure what each precision of the tables costs on validation rows."""
    catalog = reader.catalog
    return precision.measure(
        lambda kind: _opened(factory, files, kind, len(catalog.tasks)),
        reader,
        tasks=published_base.task_shapes(catalog),
        titles=[task.entire_space_title or task.title for task in catalog.tasks],
        batch_rows=BATCH_ROWS,
        worker=_ALONE,
        report=report,
    )
