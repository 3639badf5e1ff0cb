"""Return the cache's keys of what a base computes: its standardisation, and its activations.

A key is a digest of all settings that the stored numbers depend on. So another base, another
precision or another input of kernels finds none of them.
"""

from iak.pipeline.activations.cache import digest_of, key_of
from iak.pipeline.activations.standardizer import Standardizer
from iak.schemas.job import FrozenTablesSpec, KernelSpec


def standard_key(base: str, tables: FrozenTablesSpec, kernel: KernelSpec) -> str:
    """Return the cache's key of the standardisation.

    Args:
        base: `PublishedBase.cache_key` of the base.
        tables: precision of its tables, and the type of the trunk's products.
        kernel: settings of kernels, of which the inputs count.
    """
    return key_of(what="standard", **_parts_of_base(base, tables, kernel))


def activations_scope(
    base: str,
    tables: FrozenTablesSpec,
    kernel: KernelSpec,
    standard: Standardizer,
    precision: str,
) -> str:
    """Return the cache's scope of activations: a digest of what they depend on besides rows.

    Args:
        base: `PublishedBase.cache_key` of the base.
        tables: precision of its tables, and the type of the trunk's products.
        kernel: settings of kernels, of which the inputs count.
        standard: standardisation under which they are stored.
        precision: type in which they are stored.
    """
    key = key_of(
        what="activations",
        **_parts_of_base(base, tables, kernel),
        standard=digest_of(*standard.tensors().values()),
        precision=precision,
    )
    return key[:16]


def _parts_of_base(base: str, tables: FrozenTablesSpec, kernel: KernelSpec) -> dict[str, object]:
    """Return everything that activations depend on besides rows and standardisation."""
    stored = tables.model_dump(include={"precision", "precisions", "products"})
    return {"base": base, "tables": stored, **kernel.model_dump(include={"reads", "narrow"})}
