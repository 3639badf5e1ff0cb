"""Make findings on a log as a whole."""

from iak.pipeline.data.breaches import Level
from iak.pipeline.data.contract import Finding

EXAMPLES = 3
"""Most examples of a finding."""


def notice(
    what: str, *, column: str, count: int, remedy: str, where: str = "-", level: Level = "warn"
) -> Finding:
    """Return a finding on the whole log.

    Args:
        what: the problem, as part of a sentence.
        column: the column that is concerned, `-` for none.
        count: rows that show it.
        remedy: the remedy, as a sentence.
        where: the log's folder, `-` where `what` names the position.
        level: severity of the problem.
    """
    return Finding(
        level=level,
        what=what,
        examples=() if where == "-" else (where,),
        column=column,
        count=count,
        remedy=remedy,
    )


def refusal(what: str, file: str, rows: int) -> Finding:
    """Return a finding of what would stop a job before it trains.

    Args:
        what: the problem, as part of a sentence.
        file: a file that shows it, or the log's folder.
        rows: rows that are concerned.
    """
    return Finding(
        level="refuse",
        what=what,
        column="-",
        count=rows,
        examples=(file,),
        remedy="Training would stop here. Check data_root, log.path and [log]",
    )
