"""Store what the base computed of predicted rows, for nights that will tune on the same rows.

An entry is named by the content of its rows' features. So a night finds it although the log comes
later, in other files and with labels. The night must read the same base in the same precision. It
must start from the kernels that predicted: activations are stored under their standardisation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
from torch import Tensor

from iak.pipeline.activations.cache import ActivationCache
from iak.pipeline.activations.cache_keys import activations_scope
from iak.pipeline.activations.represent import DTYPES
from iak.pipeline.activations.standardizer import Standardizer
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.data.feature_keys import feature_keys
from iak.pipeline.publish.bundle import read_manifest
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.publish.bundle_set import live_kernels
from iak.schemas.job import FrozenTablesSpec, KernelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationWriterConfig:
    """Where activations are stored, and as what."""

    folder: Path
    """Folder of the activation cache."""
    precision: Literal["bf16", "fp32"]
    budget_bytes: int
    """Bytes of the whole cache. Least recently used entries are removed."""
    run: str
    """Name of the run, the same when it is resumed."""
    uri: str | None = None
    """`s3://bucket/prefix` of the entries of all machines; None where this one shares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationWriter:
    """The activations that one worker stores."""

    cache: ActivationCache
    scope: str
    standard: Standardizer
    precision: Literal["bf16", "fp32"]

    @classmethod
    def of(
        cls,
        config: ActivationWriterConfig,
        base: FrozenBase,
        bundles: Path,
        tables: FrozenTablesSpec,
    ) -> Self | None:
        """Return the writer of activations for a night that starts from these bundles.

        Args:
            config: where, and in which precision.
            base: the base at work.
            bundles: folder of the bundles.
            tables: how the base's tables are stored.

        Returns:
            None where no bundle is published: a night then fits a standardisation of its own.

        Raises:
            BadRequest: the bundles were not tuned together.
        """
        manifest = base.published.manifest
        kernel = kernel_of(bundles)
        live = live_kernels(
            bundles,
            base_fingerprint=manifest.fingerprint,
            schema_hash=manifest.schema_hash,
            reads=kernel.reads,
        )
        if live is None:
            return None
        return cls(
            cache=ActivationCache(config.folder, run=config.run, uri=config.uri),
            scope=activations_scope(
                base.published.cache_key, tables, kernel, live.standard, config.precision
            ),
            standard=live.standard.to(base.worker.device),
            precision=config.precision,
        )

    def add(self, rows: pa.Table, h_BH: Tensor, x_BX: Tensor) -> None:
        """Store the activations of encoded rows, in the background.

        Args:
            rows: the rows.
            h_BH: the base's representation of them, and of the rows that fill the batch up.
            x_BX: embeddings of the same.
        """
        (batch,) = rows.combine_chunks().to_batches()
        # Cut after the product: a product of fewer rows would round otherwise.
        a_BA = self.standard.of(h_BH, x_BX)[: len(rows)].to(DTYPES[self.precision]).cpu()
        self.cache.write(self.scope, feature_keys(batch), a_BA, computed=len(batch))

    def close(self, config: ActivationWriterConfig, *, is_first: bool) -> None:
        """Finish writing; the first worker keeps the cache to its budget."""
        self.cache.close()
        if is_first:
            self.cache.keep_to_budget(config.budget_bytes)


def kernel_of(bundles: Path) -> KernelSpec:
    """Return the settings that all kernels of a folder were tuned with."""
    first = read_index(bundles).bundles[0]
    return read_manifest(bundles / first.folder).kernel
