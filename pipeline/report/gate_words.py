"""Describe in a few words what the gate decided on a domain, and which kernel serves it."""

from iak.pipeline.stats.metrics import ALL, POOLED_ROWS
from iak.schemas.domain import POOLED
from iak.schemas.prediction import EvaluationResult
from iak.schemas.predictions import BASE


def gate_word(result: EvaluationResult, domain: str, task: str) -> str:
    """Return the gate's decision on a domain's own kernel, and this task's part in it."""
    if domain in (ALL, POOLED_ROWS):
        return "-"
    gate = (result.gate or {}).get(domain)
    if gate is None:
        return "no kernel"
    decided = "published" if gate.publish else "held"
    if task in gate.holding:
        return "held by this task"
    if gate.holding:
        return f"held by {', '.join(gate.holding)}"
    if task in gate.not_judged:
        return f"{decided}; {task} not judged: {gate.not_judged[task]}"
    return decided if gate.publish else "held: gain within noise"


def served_word(result: EvaluationResult, domain: str) -> str:
    """Return the published kernel that serves a domain: its own, a parent's, or the pooled one."""
    name = result.served.get(domain)
    if domain in (ALL, POOLED_ROWS) or name is None:
        return "-"
    return "own" if name == domain else name if name in (POOLED, BASE) else f"parent: {name}"
