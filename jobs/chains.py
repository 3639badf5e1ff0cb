"""Show the chains of a registry: the evidence on each domain's kernels over nights."""

from collections.abc import Sequence

from iak.jobs.tables import number, show_facts, show_table
from iak.pipeline.publish.chain import log_evidence
from iak.pipeline.report.evidence_words import EVIDENCE, evidence_words
from iak.schemas.chain import ChainState
from iak.schemas.registry_answer import ChainRow

MAX_CHAINS = 40
"""Chains shown in a table; the JSON has all."""


def chain_row(chain: ChainState) -> ChainRow:
    """Return the numbers of a chain, for tables and JSON."""
    evidence = log_evidence(chain)
    return ChainRow(
        domain=chain.name,
        log_evidence=evidence,
        needed=chain.needed,
        nights=chain.nights,
        began=str(chain.began),
        last_night=str(chain.last_night),
        proved_on=None if chain.proved_on is None else str(chain.proved_on),
        proved_by=chain.proved_by,
        gain=chain.gain,
        gain_low=chain.gain_low,
        stands=evidence_words(evidence, chain.needed, chain.nights, chain.proved_on),
    )


def show_chains(chains: Sequence[ChainState]) -> None:
    """Print the chains of all domains: those not yet proved first, by falling evidence."""
    rows = [chain_row(chain) for chain in chains]
    rows.sort(key=lambda row: (row.proved_on is not None, -row.log_evidence))
    left = f" {len(rows) - MAX_CHAINS} more; json= writes all." * (len(rows) > MAX_CHAINS)
    show_table(
        "chains: the evidence of each domain's kernels over nights",
        ("domain", "nights", "evidence", "needed", "gain", "at least", "where it stands"),
        [
            (
                row.domain,
                f"{row.nights:,}",
                number(row.log_evidence, 2, sign=True),
                number(row.needed, 2),
                number(row.gain, 5, sign=True),
                number(row.gain_low, 5, sign=True),
                row.stands,
            )
            for row in rows[:MAX_CHAINS]
        ],
        caption=f"{EVIDENCE} Gain: of the last judged kernel over the base, in nats a row.{left}",
    )


def show_chain(chain: ChainState) -> None:
    """Print the chain of one domain."""
    row = chain_row(chain)
    show_facts(f"evidence of {chain.name}", _facts(row))


def _facts(row: ChainRow) -> dict[str, str]:
    gain = f"{number(row.gain, 5, sign=True)} nats a row over the base"
    if row.gain_low is not None:
        gain += f", at least {number(row.gain_low, 5, sign=True)}"
    proved = f", by the evidence of {row.proved_by}" if row.proved_by else ""
    return {
        "stands at": f"{row.stands}{proved}",
        "evidence": f"{row.log_evidence:+.2f}; {number(row.needed, 2)} proves it",
        "nights": f"{row.nights:,} counted, from {row.began} to {row.last_night}",
        "gain of the last judged kernel": "-" if row.gain is None else gain,
    }
