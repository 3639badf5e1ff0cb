"""Predict encoded rows: the base once, then each row by the kernel of its domain.

The same code predicts files and streams. A row's result does not depend on the rows beside it.

Shapes: B rows, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from iak.pipeline.activations.represent import DTYPES, represent_rows
from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.data import features
from iak.pipeline.data.hashing import dictionary_indices
from iak.pipeline.model.loss import probabilities
from iak.pipeline.model.representation import Representation
from iak.pipeline.publish.bundle_predictor import BundlePredictor
from iak.pipeline.publish.bundle_set import (
    BASE_SLOT,
    BundleSet,
    moved_bundle_set,
    read_bundle_set,
)
from iak.pipeline.serving.activation_writer import ActivationWriter
from iak.pipeline.serving.encode import BREACH, ID
from iak.pipeline.serving.routes import Indices, RoutedRows, Routes, one_dictionary
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.log import Catalog
from iak.schemas.predictions import MetricTask, metric_tasks

Floats = npt.NDArray[np.float64]
_NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A base at work, and the kernels that predict on it."""

    base: FrozenBase
    catalog: Catalog
    """The log's catalogue without labels, from `Catalog.to_score`."""
    tasks: tuple[MetricTask, ...]
    """The probabilities that a row gets."""
    routes: Routes
    products: torch.dtype
    """Type of the trunk's matrix products."""
    activation_writer: ActivationWriter | None = None
    """Where the activations of predicted rows are stored; None stores none."""
    kernels: BundlePredictor | None = None
    """The kernels of `routes` at work; None where the base predicts alone."""

    @classmethod
    def of(
        cls, base: FrozenBase, catalog: Catalog, *, bundles: Path | None, tables: FrozenTablesSpec
    ) -> Self:
        """Return a scorer with the published kernels of a folder, each of them verified.

        Args:
            base: the base at work.
            catalog: the log's catalogue without labels.
            bundles: folder of the bundles; None predicts with the base alone.
            tables: names the type of the trunk's products.

        Raises:
            WrongBase: the bundles were tuned on another base.
            Corrupt: they are not those that their index names.
        """
        known = base.published.catalog
        alone = cls(
            base=base,
            catalog=catalog,
            tasks=metric_tasks(known.tasks, negatives_kept=known.log.negatives_kept),
            routes=Routes(
                bundles=None,
                base_fingerprint=base.published.manifest.fingerprint,
                levels=len(catalog.domain.levels),
            ),
            products=DTYPES[tables.products],
        )
        return alone if bundles is None else alone.with_kernels(bundles)

    def with_kernels(self, bundles: Path) -> Self:
        """Return a scorer of the same base with the published kernels of a folder.

        Args:
            bundles: folder of the bundles, each of which is verified.

        Raises:
            WrongBase: the bundles were tuned on another base.
            Corrupt: they are not those that their index names.
        """
        return self._with(read_bundle_set(bundles, **self._inputs, catalog=self.counted))

    def with_moved(self, bundles: Path, folders: Sequence[str]) -> Self:
        """Return a scorer of the same base in which some kernels are others.

        Args:
            bundles: folder of the other bundles, each of which is verified.
            folders: names of the folders of all bundles that will predict. Those that do not lie
                in `bundles` predict already, and are not read again.

        Raises:
            WrongBase: the bundles were tuned on another base.
            Corrupt: they are not those that their manifests name.
        """
        known = self.routes.bundles
        assert known is not None, "a scorer that follows a registry has kernels"
        return self._with(
            moved_bundle_set(known, bundles, folders, **self._inputs, catalog=self.counted)
        )

    def _with(self, bundles: BundleSet) -> Self:
        """Return a scorer of the same base with other kernels."""
        kernels = bundles.to(self.base.worker.device)
        return replace(
            self,
            # New routes: those that were found belong to the kernels before.
            routes=replace(self.routes, bundles=kernels, known={}),
            kernels=BundlePredictor(kernels, self.base.heads),
        )

    @property
    def _inputs(self) -> dict[str, str]:
        """Return what bundles must have been tuned on."""
        manifest = self.base.published.manifest
        return {
            "base_fingerprint": manifest.fingerprint,
            "schema_hash": manifest.schema_hash,
        }

    @torch.no_grad()
    def score(self, rows: pa.Table) -> pa.Table:
        """Return the predictions of encoded rows, in their order; a collective call.

        Args:
            rows: rows from `encode_to_score`. Without any, the call only takes part in the lookup.

        Returns:
            The columns that `ScoresDocument` lists.
        """
        if not len(rows):
            self.represent(features.no_rows(self.catalog))
            return self.schema.empty_table()
        routed = self.routes.of(rows)
        logits_BT = self._logits(rows, routed)
        return self._table(rows, routed, self._by_task(logits_BT, len(rows)))

    def represent(self, rows: pa.Table) -> Representation:
        """Return h and x of encoded rows, and of rows that fill the batch up; a collective call."""
        return represent_rows(
            self.base.model,
            rows,
            self.catalog,
            products=self.products,
            device=self.base.worker.device,
        )

    @property
    def schema(self) -> pa.Schema:
        """Return the names and types of the columns of predictions."""
        columns = {"row": pa.int64()} | ({ID: pa.string()} if self.catalog.log.row_id else {})
        columns |= {"domain": pa.string()} | {f"p.{task.name}": pa.float64() for task in self.tasks}
        return pa.schema(columns | dict.fromkeys(("kernel", "version", "reason"), _NAME))

    def _logits(self, rows: pa.Table, routed: RoutedRows) -> Tensor:
        """Return the logits of the rows and of those that fill the batch up."""
        h_BH, x_BX = self.represent(rows)
        if self.activation_writer is not None:
            self.activation_writer.add(rows, h_BH, x_BX)
        if self.kernels is None:
            logits_BT: Tensor = self.base.heads(h_BH)
            return logits_BT
        slots_B = torch.full((len(h_BH),), BASE_SLOT)
        slots_B[: len(rows)] = torch.from_numpy(routed.slots)
        slots_B = slots_B.to(self.base.worker.device)
        bundles = self.kernels.bundles
        s_BS = bundles.statistics(rows, self.counted, slots_B) if bundles.states else None
        return self.kernels.logits(h_BH, x_BX, slots_B, s_BS)

    @property
    def counted(self) -> Catalog:
        """Return the catalogue with the tasks whose rates were counted."""
        return _with_tasks(self.catalog, self.base)

    def _by_task(self, logits_BT: Tensor, rows: int) -> dict[str, Floats]:
        """Return each probability of the first `rows` rows, by its name."""
        shapes = published_base.task_shapes(self.base.published.catalog)
        p = probabilities(logits_BT.double().cpu(), shapes)
        by_space = {"own": p.own_BT, "all": p.entire_BT}
        index = {shape.name: number for number, shape in enumerate(shapes)}
        return {
            task.name: by_space[task.space][:rows, index[task.task]].numpy() for task in self.tasks
        }

    def _table(self, rows: pa.Table, routed: RoutedRows, by_task: Mapping[str, Floats]) -> pa.Table:
        """Return the columns of predictions; a row with a breach has nulls and the breach."""
        breach = one_dictionary(rows.column(BREACH))
        is_broken = breach.is_valid().to_numpy(zero_copy_only=False)
        columns = [rows.column("row")]
        columns += [rows.column(ID)] if self.catalog.log.row_id else []
        columns.append(_plain(rows.column(f"l.{self.routes.levels - 1}")))
        columns += [pa.array(by_task[task.name], mask=is_broken) for task in self.tasks]
        routes = routed.routes
        columns.append(_named([r.kernel for r in routes], routed.index, is_broken))
        columns.append(_named([r.version for r in routes], routed.index, is_broken))
        columns.append(_named([r.reason for r in routes], routed.index, is_broken, breach))
        return pa.Table.from_arrays(columns, schema=self.schema)


def _with_tasks(catalog: Catalog, base: FrozenBase) -> Catalog:
    """Return a catalogue without labels with the base's tasks."""
    return catalog.model_copy(update={"tasks": base.published.catalog.tasks})


def _named(
    words: Sequence[str | None],
    index: Indices,
    is_broken: npt.NDArray[np.bool_],
    breach: pa.DictionaryArray | None = None,
) -> pa.DictionaryArray:
    """Return each row's word; only distinct words become Arrow's, and no row's text is copied.

    Args:
        words: words that rows have; several may be the same.
        index: index of each row's word.
        is_broken: rows that break the contract, which have none.
        breach: words that these rows have instead; None for nulls.
    """
    distinct = [word for word in dict.fromkeys(words) if word is not None]
    numbers: dict[str | None, int] = {word: number for number, word in enumerate(distinct)}
    codes = np.array([numbers.get(word, -1) for word in words], np.int32)[index]
    codes[is_broken] = -1
    if breach is not None and is_broken.any():
        codes[is_broken] = len(distinct) + dictionary_indices(breach)[is_broken]
        distinct += breach.dictionary.to_pylist()
    indices = pa.array(codes, mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of dictionaries as text."""
    text = column.cast(pa.string())
    return text.combine_chunks() if text.num_chunks != 1 else text.chunk(0)
