"""Describe how far a domain's chain is from being proved: its evidence, and what is needed."""

from datetime import date

from iak.pipeline.report.wording import day, plural

EVIDENCE = (
    "Evidence is the natural logarithm of a bet's wealth over nights (e-process). It starts at 0. "
    "A chain is proved when it reaches log(1/alpha), with the part of alpha that the first night's "
    "own test leaves."
)


def evidence_words(
    log_evidence: float, needed: float | None, nights: int | None, proved_on: date | None
) -> str:
    """Return the evidence of a chain in words, and how much is needed.

    Args:
        log_evidence: natural logarithm of its evidence.
        needed: natural logarithm of the evidence that proves it; None where none ever does, or
            where that is not known.
        nights: nights that the evidence is of; None where that is not known.
        proved_on: night in which it was proved; None before.
    """
    if proved_on is not None:
        return f"proved on {day(proved_on)}"
    enough = "" if needed is None else f" of {needed:.2f} needed"
    after = "" if nights is None else f" after {plural(nights, 'counted night')}"
    return f"{log_evidence:.2f}{enough}{after}"
