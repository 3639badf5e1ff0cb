"""Define the result of an evaluation: what its workers return, and all that its record has."""

from pydantic import NonNegativeInt

from iak.schemas.base import JsonObject, ResultSpec, Spec


class GateSummary(Spec):
    """The gate's decision on one kernel."""

    publish: bool
    """Whether it is published."""
    holding: tuple[str, ...]
    """Tasks that hold it back."""
    not_judged: dict[str, str]
    """Task that was not judged -> why."""


class PredictionResult(ResultSpec):
    """What the workers of an evaluation counted, over all workers."""

    contract: dict[str, NonNegativeInt]
    """Quarantined rows by reason."""
    digest: str
    """Digest of the base's tables and trunk."""
    unseen: dict[str, dict[str, float]]
    """By split, each table's share of ids that pre-training never saw."""
    gate: dict[str, GateSummary] | None = None
    """Name of a bundle -> the gate's decision; None without bundles."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values, under the keys of a run record."""
        return self.model_dump(mode="json", exclude_none=True)


class Intervals(Spec):
    """What intervals take as independent, and the effect on a standard error."""

    cluster: str = "row"
    """`user` where rows of one user count as dependent, else `row`."""
    clusters: dict[str, NonNegativeInt] = {}
    """Task -> number of independent units."""
    se_over_delong: dict[str, float | None] = {}
    """Task -> standard error of the AUC difference over that of independent rows."""


class UntunedDomain(Spec):
    """A domain without a tuning row in a split that is judged."""

    domain: str
    split: str
    rows: NonNegativeInt
    served_by: str
    """The kernel that serves it."""


class PlantedFacts(Spec):
    """What only a planted log can tell of an evaluation, since its true probabilities are known."""

    expected_log_loss: dict[str, float | None] | None = None
    """Method -> log-loss of clicks, expected under the true probabilities."""
    reachable_share: float | None = None
    """Share of the reachable gain that the tuned kernels reach."""
    reachable_share_published: float | None = None
    """The same of what serves after the gate."""
    base_gap: float | None = None
    """AUC by which the base ranks worse than the global taste on its own days."""
    base_auc_on_its_own_days: float | None = None


class EvaluatedRows(PredictionResult):
    """The rows of an evaluation, and what served them. Fields that older runs lack are empty."""

    base_fingerprint: str = ""
    split: str = ""
    """The split that was evaluated."""
    rows: NonNegativeInt = 0
    """Rows of it."""
    untuned_domains: tuple[UntunedDomain, ...] = ()
    served: dict[str, str] = {}
    """Domain -> the published kernels that serve its rows, `base` where there is none."""
    intervals: Intervals = Intervals()
    unseen_usual: dict[str, float] = {}
    """Table -> share of unseen ids on the base's validation rows."""


class EvaluationResult(PlantedFacts, EvaluatedRows):
    """All that an evaluation measured beside its metrics."""
