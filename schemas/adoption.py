"""Define the result of `iak adopt`: what was seen in the columns of a base that runs elsewhere."""

from pydantic import NonNegativeInt

from iak.schemas.base import ResultSpec, Spec
from iak.schemas.training import TaskQuality


class ColumnRange(Spec):
    """Range of a column of logits over all rows that were read."""

    column: str
    low: float
    high: float


class DomainQuality(Spec):
    """How well the given logits predict in one domain."""

    domain: str
    """Name of the domain."""
    tasks: tuple[TaskQuality, ...]


class GivenQuality(Spec):
    """How well the given logits predict, on rows that no kernel is tuned on."""

    tasks: tuple[TaskQuality, ...]
    """Every task over all domains."""
    domains: tuple[DomainQuality, ...]
    """Every domain by itself, by name."""


class AdoptionResult(ResultSpec):
    """What an adoption read and measured."""

    fingerprint: str
    """Fingerprint of the base that was published."""
    rows: NonNegativeInt
    """Rows whose columns were checked."""
    unusable: dict[str, NonNegativeInt]
    """Why a column cannot be used -> rows."""
    ranges: tuple[ColumnRange, ...]
    quality: GivenQuality
    contract: dict[str, NonNegativeInt]
    """Quarantined rows by reason."""
    advice: tuple[str, ...]
    """A sentence for each thing that is most likely a mistake."""
