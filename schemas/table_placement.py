"""Define where a table lay in a run, as its record says it."""

from typing import Literal

from pydantic import NonNegativeInt

from iak.schemas.base import SparseSpec
from iak.schemas.job import Precision
from iak.schemas.plan import ShardingType


class TablePlacement(SparseSpec):
    """One table of a run: its cut, and the workers that have its parts."""

    table: str
    type: ShardingType | Literal["mapped"]
    """How it is cut; `mapped` where every worker reads the whole table from local disk."""
    precision: Precision | None = None
    """Type of its entries in memory; not set where it is trained, which is in fp32."""
    ranks: tuple[NonNegativeInt, ...]
    """The worker that has each part."""
    rows: NonNegativeInt
    width: NonNegativeInt
    bytes_per_rank: tuple[NonNegativeInt, ...]
    """Bytes of each part, in the order of `ranks`."""
