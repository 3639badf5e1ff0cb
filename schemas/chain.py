"""Define a chain: one domain's kernels over nights, and the evidence that they help.

A chain belongs to one base. With a new base it begins again.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from iak.schemas.base import Spec
from iak.schemas.domain import Domain
from iak.schemas.verdict import Comparison, Verdict

Outcome = Literal["promote", "hold", "fall_back"]
"""`promote`: the candidate is to serve. `hold`: what serves goes on. `fall_back`: the kernel that
serves is to be withdrawn, and the next one above it serves."""
Service = Literal["own", "parent", "pooled", "base"]
"""Whose kernel serves a domain."""


class ChainState(Spec):
    """What a chain carries from one night to the next. The registry's commits hold it."""

    format: Literal[1] = 1
    """Number of this document's format."""
    domain: list[tuple[str, str]]
    """Pairs of key and value, outermost first; empty for the pooled kernel."""
    base_fingerprint: str
    """The base that all nights of the chain ran on."""
    began: date
    """Its first night, which set the scale and counted no evidence."""
    scale: Annotated[float, Field(gt=0)]
    """The base's loss in the first night, in nats a row, of which gains are shares."""
    floor: Annotated[float, Field(gt=0, le=1)]
    """Bound of the number that a night adds to the evidence."""
    log_wealth: tuple[float, ...]
    """Natural logarithm of each bet's wealth, in the order of the grid of bets."""
    nights: NonNegativeInt
    """Nights whose evidence was counted."""
    last_night: date
    """Last night that was looked at; it and those before it never count again."""
    counted_to: dict[str, date]
    """Task -> last day whose gate rows were used. Later nights use only days after it."""
    proved_on: date | None = None
    """Night in which the chain was shown to be better than what it falls back to; null before."""
    proved_by: Literal["one night", "many nights"] | None = None
    """Which of the two tests showed it."""
    needed: float | None = None
    """Natural logarithm of the evidence that proves the chain, by the settings of its last judged
    night; null where none ever does. For people: no decision reads it."""
    gain: float | None = None
    """Gain over the base of its last judged candidate, in nats a gate row. For people."""
    gain_low: float | None = None
    """Lower bound on that gain: the gain minus the standard errors that the gate asks for."""

    @property
    def name(self) -> str:
        """Return the domain's name."""
        return Domain(tuple(self.domain)).name


class ChainVerdict(Spec):
    """What a night decided on a chain, with its numbers."""

    outcome: Outcome
    """What becomes of the candidate and of the kernel that serves."""
    sentence: str
    """Why, in one plain sentence with its numbers."""
    observation: float | None = None
    """The number that this night added to the evidence; null where it added none."""
    log_evidence: float
    """Natural logarithm of the evidence after this night."""
    needed: float | None
    """Natural logarithm of the evidence that is enough; null where none ever is."""
    at_once: float | None = None
    """Lower bound of the gain as a share of the base's loss, by the first night's own test; null in
    later nights, and where its rows are of one day or one user."""
    shrunk_gain: float | None = None
    """Gain over what it falls back to in nats a row, drawn towards the gains of the other domains
    of its level; null where nothing is judged."""
    against: dict[str, Verdict] = {}
    """Name -> verdict on the candidate against something besides the base, on the same rows. The
    metrics of what it is compared with stand as the verdict's `base`. `live` is the domain's own
    kernel, and `serving` is what serves without it. `tuned_above` is tonight's kernel above it.
    `canary` is what serves, on the newest hours. In `live_over_serving` the live kernel has the
    candidate's place."""
    gauc: dict[str, Comparison] = {}
    """Task -> mean AUC within users of the candidate and the base; absent without users."""
    gauc_live: dict[str, Comparison] = {}
    """The same of the candidate and the live kernel, which stands as `base`; empty where no kernel
    of the domain's own serves."""
    canary_rows: str = ""
    """Which rows the canary is of, and why whole days where hours are not known; empty where there
    is no canary."""
    state: ChainState | None
    """What the next night begins with; null where no gate row has a label yet."""
