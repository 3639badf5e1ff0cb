"""Make findings on a log as a whole: on its dates, ids, windows and domains."""

from iak.pipeline.data.contract import Finding, Level


def notice(
    what: str, *, column: str, count: int, remedy: str, where: str = "-", level: Level = "warn"
) -> Finding:
    """Return a finding on the whole log.

    Args:
        what: what is wrong, as part of a sentence.
        column: the column that is concerned, `-` for none.
        count: rows that show it.
        remedy: what to do about it.
        where: the log's folder, `-` where `what` names the position.
        level: how bad it is.
    """
    return Finding(
        level=level,
        what=what,
        examples=() if where == "-" else (where,),
        column=column,
        count=count,
        remedy=remedy,
    )
