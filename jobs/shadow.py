"""`iak shadow`: show how predictions would change if the candidate served."""

from iak.jobs.console_report import console_report
from iak.jobs.tables import largest, number, show_facts, show_table
from iak.pipeline.errors import OK, SOME_HELD
from iak.pipeline.files import put_output
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.shadow import shadow
from iak.pipeline.stats.metrics import POOLED_ROWS
from iak.schemas.shadow import ScoreChange, ShadowDocument, ShadowSpec

_SHOWN = 20
"""Domains that are shown, those with most rows. The JSON has all."""
_COLUMNS = (
    "domain", "task", "rows", "mean", "p10", "p50", "p90", "ranks", "delta AUC", "live cal", "cal",
)  # fmt: skip


def main(spec: ShadowSpec) -> int:
    """Replay the rows, show what changed, and return 4 where a limit does not hold."""
    catalog = load_catalog(spec.catalog)
    with console_report() as report:
        document = shadow(spec, catalog, report)
    show(document)
    if spec.json_out:
        put_output(spec.json_out, document.model_dump_json(indent=1))
    return SOME_HELD if document.exceeded else OK


def show(document: ShadowDocument) -> None:
    """Show the changes by domain and task, the rows that moved most, and what exceeds a limit."""
    show_facts(
        "candidate against live",
        {
            "live": document.live,
            "candidate": document.candidate,
            "rows": f"{document.rows:,}, and {document.not_predicted:,} that neither predicts",
            "by a kernel of another domain": f"{document.other_kernel:,}",
            "time over live": f"{document.latency:.2f}",
        },
    )
    rows = {change.domain: change.rows for change in document.changes}
    domains = largest(rows, _SHOWN, always=(POOLED_ROWS,))
    show_table(
        "changes of probability",
        _COLUMNS,
        [_cells(change) for change in document.changes if change.domain in domains],
        caption="ranks: correlation within users, or within the domain of a log without users. "
        "cal: predicted over observed.",
        text=("task",),
        ends_in_number=True,
    )
    show_table(
        "rows that moved most",
        ("row", "domain", "task", "live", "candidate", "by", "now by"),
        [
            [
                str(row.row) if row.id is None else row.id,
                row.domain,
                row.task,
                number(row.live),
                number(row.candidate),
                row.live_kernel,
                row.candidate_kernel,
            ]
            for row in document.moved
        ],
        text=("domain", "task", "by"),
    )
    if document.exceeded:
        show_table(
            "limits that do not hold",
            ("limit", "domain", "task", "seen", "allowed"),
            [
                [e.limit, e.domain or "-", e.task or "-", number(e.seen), number(e.allowed)]
                for e in document.exceeded
            ],
            text=("domain", "task"),
            ends_in_number=True,
        )


def _cells(change: ScoreChange) -> list[str]:
    """Return one line of the table of changes."""
    quantiles = (change.quantiles[name] for name in ("p10", "p50", "p90"))
    return [
        change.domain,
        change.task,
        f"{change.rows:,}",
        number(change.mean, sign=True),
        *(number(value, sign=True) for value in quantiles),
        number(change.rank_correlation, 3),
        number(change.delta_auc, sign=True),
        number(change.live_calibration, 3),
        number(change.candidate_calibration, 3),
    ]
