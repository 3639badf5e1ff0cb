"""Summarise a night in one line: for chat, for a webhook, and as the page's first sentence."""

from iak.pipeline.first_few import first_few
from iak.pipeline.report.domain_lines import falls_back
from iak.pipeline.report.wording import plural
from iak.schemas.night import NightRecord, Outcome

WORDS: dict[Outcome, str] = {
    "promoted": "promoted",
    "held": "held",
    "failed": "failed",
    "waiting": "did not train",
}
"""Outcome -> its name on a page."""
MAX_NAMES = 3
"""Domains named in one line at most."""


def sentence_of(record: NightRecord) -> str:
    """Return what happened to the kernels, as in `34 of 41 kernels promoted, 2 held`."""
    if record.status == "failed":
        return f"The night failed: {_first_line(record.error or 'no reason was recorded')}"
    if record.status != "finished":
        return f"The night is {record.status}; nothing below is final."
    counts = record.counts
    parts = [f"{counts['promoted']:,} of {plural(len(record.domains), 'kernel')} promoted"]
    parts += [f"{counts[o]:,} {WORDS[o]}" for o in ("held", "failed", "waiting") if counts[o]]
    fallbacks = sum(falls_back(domain) for domain in record.domains)
    if fallbacks:
        parts.append(f"{fallbacks:,} served by a fallback")
    return ", ".join(parts) + "."


def summary_of(record: NightRecord) -> str:
    """Return one line for chat: the service, the night, what happened, and which domains failed."""
    line = f"{record.name}, night of {record.night}: {sentence_of(record)}"
    # A name may hold a line break, and a chat takes one line.
    return " ".join(f"{line} {_names(record, 'failed')}".split())


def failed_and_held(record: NightRecord) -> str:
    """Return which domains failed or were held; of an unfinished night, its state."""
    if record.status != "finished":
        return sentence_of(record)
    return f"{_names(record, 'failed')} {_names(record, 'held')}".strip()


def _names(record: NightRecord, outcome: Outcome) -> str:
    """Return the first domains of an outcome as a sentence; nothing where there are none."""
    names = [d.decision.name for d in record.domains if d.outcome == outcome]
    return f"{WORDS[outcome].capitalize()}: {first_few(names, MAX_NAMES)}." if names else ""


def _first_line(text: str) -> str:
    """Return the first line of an error, with a full stop."""
    line = (text.strip().splitlines() or [""])[0].strip()
    return line if line.endswith((".", "!", "?")) else f"{line}."
