"""Findings on a log as a whole: its dates, ids, windows and domains, not one of its files."""

from iak.pipeline.data.contract import Finding, Level


def notice(
    what: str, *, column: str, count: int, remedy: str, where: str = "-", level: Level = "warn"
) -> Finding:
    """Return a finding on the whole log.

    Args:
        what: was found.
        column: it is about, `-` for none.
        count: of rows.
        remedy: what to do about it.
        where: the log's folder, `-` where the sentence names the place.
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
