"""Load a published base with frozen weights. Every job that uses a base does it by `FrozenBase`.

    published = open_base(folder)
    base = FrozenBase.load(published, tables, placement, worker)
    base.model.represent(batch.ids, batch.numeric_BN)

`FrozenBase.digest` before and after a job proves that nothing changed.

TorchRec is imported where a base is loaded. A command whose workers load it does without: the
import takes seconds.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from iak.pipeline.base import precision
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.model.digest import Digest, digest
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.process import Worker
from iak.pipeline.sharding.mapped import MapFolder
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.table_placement import TablePlacement

if TYPE_CHECKING:
    from iak.pipeline.base.frozen_model import FrozenModule
    from iak.pipeline.sharding.frozen_tables import FrozenTables

MAPPED = "mapped"
"""Folder of mapped tables, beside the base."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenBase:
    """A published base, loaded: its tables, if any, are frozen and spread over the workers."""

    published: PublishedBase
    model: "FrozenModule"
    """The model in evaluation mode, without gradients. Its `represent` and `forward` are collective
    calls where tables are sharded."""
    worker: Worker

    @classmethod
    def load(
        cls,
        published: PublishedBase,
        tables: FrozenTablesSpec,
        placement: ResolvedPlacement,
        worker: Worker,
        *,
        map_folder: Path | None = None,
    ) -> Self:
        """Load a published base with its tables frozen; a collective call.

        Args:
            published: the base, from `open_base`.
            tables: the precision of the tables, what it may cost, and whether they are mapped.
            placement: placement of the tables. Mapped tables lie whole on every machine instead.
            worker: this process; a process group is up where there are several.
            map_folder: folder for mapped tables, on a disk of this machine; beside the base when
                absent.

        Raises:
            BadRequest: a precision costs the base more than it may, or nobody measured it; or the
                plan is not for this base, these workers or these precisions.
            Corrupt: a file is not what was published.
        """
        from iak.pipeline.base.frozen_model import load_frozen
        from iak.pipeline.base.module_tables import TablesOnWorker

        published.bring()
        for sentence in precision.check(published.manifest, tables):
            _log.warning(sentence)
        at = TablesOnWorker(
            worker=worker,
            precisions=precision.precisions_of(published.manifest, tables),
            placement=placement,
            mapped_at=_map_folder(published, tables, map_folder) if tables.mapped else None,
        )
        model = load_frozen(published, at).to(worker.device)
        return cls(published=published, model=model, worker=worker)

    @property
    def tables(self) -> "FrozenTables":
        """Return this worker's part of the tables, of a base that has tables."""
        tables = self._tables
        assert tables is not None, "this base has no tables"
        return tables

    def describe_tables(self) -> list[TablePlacement]:
        """Return the placement of every table; empty where the base has no tables."""
        return self._tables.describe() if self._tables else []

    @property
    def heads(self) -> Heads | Tail:
        """Return the part from h to the logits: the towers of all tasks, or any frozen tail."""
        return self.model.heads

    def digest(self) -> Digest:
        """Return the digest of every table and dense weight; a collective call.

        It is the same for any number of workers and any plan.
        """
        from iak.pipeline.sharding.shard import dense_state

        shards = self._tables.local_shards() if self._tables else []
        return digest(shards, dense_state(self.model), worker=self.worker)

    @property
    def _tables(self) -> "FrozenTables | None":
        """Return this worker's part of the tables; None where the base has none."""
        from iak.pipeline.sharding.frozen_tables import FrozenTables

        tables = getattr(self.model, "tables", None)
        return tables if isinstance(tables, FrozenTables) else None


def _map_folder(
    published: PublishedBase, tables: FrozenTablesSpec, folder: Path | None
) -> MapFolder:
    """Return where a base's tables are mapped from: a folder named for its fingerprint."""
    fingerprint = published.manifest.fingerprint
    return MapFolder(
        path=(folder or published.folder.parent / MAPPED) / fingerprint[:16],
        base_fingerprint=fingerprint,
        is_verified=tables.verify_mapped,
        days=tables.mapped_days,
    )
