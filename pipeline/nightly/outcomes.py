"""Compute the result of a night: outcome and sentence of every domain, and the exit code."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from iak.pipeline.errors import NOTHING_TO_DO, OK, SOME_FAILED, SOME_HELD
from iak.pipeline.publish.chain import log_evidence
from iak.schemas.chain import ChainState, ChainVerdict, Service
from iak.schemas.domain import POOLED, Domain
from iak.schemas.night import Decision, DomainNight, Scores
from iak.schemas.tuning import KernelResult
from iak.schemas.verdict import Comparison, TaskVerdict

Curve = Sequence[tuple[float, float, int]]
"""Mean prediction, observed share and rows of each bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightOutcomes:
    """What happened to the domains that trained, by name."""

    is_tuned: bool = True
    """Whether the night has tuned what was to train; before it has, every domain still waits."""
    kernels: Mapping[str, KernelResult] = field(default_factory=dict)
    """Kernels that were tuned and judged."""
    candidates: Mapping[str, str] = field(default_factory=dict)
    """Digests of their bundles."""
    promoted: Collection[str] = ()
    """Domains whose new kernel serves."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Domains whose kernel passed the gate and was not promoted, with the reason."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Domains whose tuning or promotion failed, with the reason."""
    scratch_gains: Mapping[str, float] = field(default_factory=dict)
    """Gain of each kernel from scratch minus that of the night's kernel, in nats per row."""
    chains: Mapping[str, ChainState] = field(default_factory=dict)
    """Chains on the night's base after it, also of domains that did not train."""


def domain_nights(
    decisions: Sequence[Decision],
    done: NightOutcomes,
    live: Mapping[str, str],
    paths: Mapping[str, Sequence[str]],
) -> list[DomainNight]:
    """Return what the night did for each domain.

    Args:
        decisions: which domains were to train.
        done: the results of those that trained.
        live: domain that has a kernel of its own after the night -> digest of its bundle.
        paths: domain -> names of the levels above it, outermost first.
    """
    return [_domain_night(decision, done, live, paths) for decision in decisions]


def exit_code(domains: Sequence[DomainNight]) -> int:
    """Return the exit code of a night: 0, 4 some held, 5 some failed, 6 nothing to do."""
    outcomes = {domain.outcome for domain in domains}
    if "failed" in outcomes:
        return SOME_FAILED
    if "held" in outcomes:
        return SOME_HELD
    return OK if "promoted" in outcomes else NOTHING_TO_DO


def serving(name: str, live: Mapping[str, str], above: Sequence[str]) -> tuple[Service, str | None]:
    """Return whose kernel serves a domain, and the digest of its bundle.

    Args:
        name: the domain's name.
        live: domain that has a kernel -> digest of its bundle.
        above: names of the levels above it, outermost first.
    """
    for candidate in (name, *reversed(above)):
        if candidate in live:
            if candidate == name:
                return "own", live[candidate]
            return ("pooled" if candidate == POOLED else "parent"), live[candidate]
    return "base", None


def _domain_night(
    decision: Decision,
    done: NightOutcomes,
    live: Mapping[str, str],
    paths: Mapping[str, Sequence[str]],
) -> DomainNight:
    name = Domain(tuple(decision.domain)).name
    service, bundle = serving(name, live, paths.get(name, ()))
    kernel = done.kernels.get(name)
    outcome, sentence = "waiting", decision.reason
    if decision.choice == "hold":
        outcome = "held"
    elif decision.choice == "train" and done.is_tuned:
        outcome, sentence = _trained(name, kernel, done)
    return DomainNight.model_validate(
        {
            "decision": decision,
            "outcome": outcome,
            "sentence": sentence,
            "served_by": service,
            "bundle": bundle,
            "candidate": done.candidates.get(name),
            "verdict": kernel.gate if kernel else None,
            **_evidence(kernel.chain if kernel else None, done.chains.get(name)),
            "scratch_gain": done.scratch_gains.get(name),
            "scores": _scores(kernel) if kernel else [],
            "rate": kernel.rate if kernel else None,
            "code": kernel.code if kernel else None,
            "path": kernel.path if kernel else [],
            "own_share": kernel.own_share if kernel else None,
            "outside": kernel.outside if kernel else None,
        }
    )


def _evidence(judged: ChainVerdict | None, known: ChainState | None) -> dict[str, object]:
    """Return how far a domain's chain is; nothing where there is none.

    Args:
        judged: what the night decided on it; None where it judged no kernel of the domain.
        known: the chain as the registry has it; None where it has none on this base.
    """
    state = judged.state if judged else known
    found: dict[str, object] = {}
    if state is not None:
        found = {
            "log_evidence": log_evidence(state),
            "evidence_needed": state.needed,
            "evidence_nights": state.nights,
            "proved_on": state.proved_on,
        }
    if judged is not None:
        found |= {
            "log_evidence": judged.log_evidence,
            "evidence_needed": judged.needed,
            "canary": _canary(judged),
        }
    return found


def _canary(chain: ChainVerdict) -> str:
    """Return what the newest hours say of a candidate, with the rows that say it."""
    verdict = chain.against.get("canary")
    if verdict is None:
        return ""
    said = "no harm shown"
    if not any(task.judged for task in verdict.tasks):
        said = "too few labels to be judged"
    elif verdict.holding:
        said = f"harm of {', '.join(verdict.holding)}"
    return f"{chain.canary_rows}: {verdict.rows:,} gate rows, {said}"


def _trained(name: str, kernel: KernelResult | None, done: NightOutcomes) -> tuple[str, str]:
    """Return the outcome of a domain that was to train, and its sentence."""
    if name in done.failed:
        return "failed", done.failed[name]
    if name in done.held:
        return "held", done.held[name]
    if kernel is None:
        return "held", "no kernel was tuned: too few of its rows are fit to be tuned on"
    return ("promoted" if name in done.promoted else "held"), kernel.reason


def _scores(kernel: KernelResult) -> list[Scores]:
    """Return a kernel's numbers, task by task, with those of the kernel that served before it."""
    chain = kernel.chain
    live = chain.against.get("live") if chain else None
    lives = {task.task: task for task in live.tasks} if live else {}
    return [
        scores_of(
            task,
            kernel.reliability,
            live=lives.get(task.task),
            gauc=chain.gauc.get(task.task) if chain else None,
            gauc_live=chain.gauc_live.get(task.task) if chain else None,
        )
        for task in kernel.gate.tasks
    ]


def scores_of(
    task: TaskVerdict,
    curves: Mapping[str, Curve],
    *,
    live: TaskVerdict | None = None,
    gauc: Comparison | None = None,
    gauc_live: Comparison | None = None,
) -> Scores:
    """Return one task's numbers as a page shows them.

    Args:
        task: verdict on the task, candidate against base.
        curves: task -> the candidate's calibration curve.
        live: verdict of the candidate against the live kernel; None where none served.
        gauc: AUC within users, of candidate and base.
        gauc_live: the same of candidate and live kernel; None where none served.
    """
    auc = task.auc
    delta = (auc.delta, auc.low, auc.high)
    return Scores(
        task=task.task,
        rows=task.rows,
        positives=task.positives,
        auc=(auc.base, live and live.auc.base, auc.kernel),
        gauc=(gauc.base, gauc_live and gauc_live.base, gauc.kernel) if gauc else (None, None, None),
        log_loss=(task.log_loss.base, live and live.log_loss.base, task.log_loss.kernel),
        calibration=(
            task.calibration.base,
            live and live.calibration.base,
            task.calibration.kernel,
        ),
        delta_auc=cast("tuple[float, float, float]", delta) if None not in delta else None,
        reliability=list(curves.get(task.task, ())),
    )
