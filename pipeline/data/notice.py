"""Make findings on a log as a whole, and name the remedy of a finding."""

from iak.pipeline.data import contract
from iak.pipeline.data.contract import Finding, Level

EXAMPLES = 3
"""Most examples of a finding."""
_REMEDIES = {
    "differs from the folder's": "The file's value wins; Iceberg writes a space as +, null as null",
    "null domain key": "Fill the key, or drop the rows; they are skipped",
    "null user": "Fill the user, or take log.user out of the catalogue; they are skipped",
    "label outside": "A label is 0, 1 or null; correct the export. The rows lose this label alone",
    "without": "A conversion needs its click; correct the join. They are skipped",
    "undeclared domain": "Add it to domain.values, or leave it out; its rows are skipped",
    "NaN or infinite": "They are read as the mean; correct the export if that is not meant",
    "beyond float32": "They are read as the mean, as a missing number is; correct the export",
    "id out of range": "They read the unseen row; raise the table's rows",
    "null id": "Such a row is identified by its position in its file; fill the id",
    "not ripe": "They are masked until they are ripe; collect labels later, or give as_of",
    "wild number": "They are cut at the feature's clip and left out of its mean and deviation",
    "missing columns": "Write the files again, or set optional = true where only features read "
    "the column: then it is null there. The files are skipped",
}
"""Part of a finding's text -> its remedy."""


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


def remedy_of(what: str, otherwise: str = "") -> str:
    """Return the remedy of a finding.

    Args:
        what: the finding's text.
        otherwise: the remedy of a text that is not known.
    """
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in what), otherwise)
    return f"{contract.type_advice(what)} {remedy}".strip()


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
