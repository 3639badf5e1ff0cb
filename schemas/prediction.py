"""Define the result of predicting with a base and its kernels, as the workers return it."""

from typing import Any

from pydantic import NonNegativeInt

from iak.schemas.base import Spec


class GateSummary(Spec):
    """The gate's decision on one kernel."""

    publish: bool
    """Whether it is published."""
    holding: tuple[str, ...]
    """Tasks that hold it back."""
    not_judged: dict[str, str]
    """Task that was not judged -> why."""


class PredictionResult(Spec):
    """What the workers of an evaluation counted, over all workers."""

    contract: dict[str, NonNegativeInt]
    """Quarantined rows by reason."""
    digest: str
    """Digest of the base's tables and trunk."""
    unseen: dict[str, dict[str, float]]
    """By split, each table's share of ids that pre-training never saw."""
    gate: dict[str, GateSummary] | None = None
    """Name of a bundle -> the gate's decision; None without bundles."""

    def as_json(self) -> dict[str, Any]:
        """Return the document as JSON values, under the keys of a run record."""
        return self.model_dump(mode="json", exclude_none=True)
