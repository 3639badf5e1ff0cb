"""`iak explain`: show what the base predicts for rows, and what their kernels add to it."""

from iak.jobs.console_report import console_report
from iak.jobs.tables import number, show_table
from iak.pipeline.files import put_output
from iak.pipeline.runs.explain_rows import explain_rows
from iak.pipeline.runs.load import load_catalog
from iak.schemas.explaining import ExplainedRow, ExplainSpec, Explanation, ExplanationsDocument

_VERSION = 12
"""Characters of a version that are shown."""
_SERVES = ("row", "by", "domain", "kernel", "version", "tuned on", "nats", "why not its own")
_PARTS = ("row", "by", "task", "base p", "base logit", "h", "adapters", "skip", "logit", "p")


def main(spec: ExplainSpec) -> int:
    """Explain the rows that were asked for."""
    catalog = load_catalog(spec.catalog)
    with console_report() as report:
        document = explain_rows(spec, catalog, report)
    show(document)
    if spec.json_out:
        put_output(spec.json_out, document.model_dump_json(indent=1))
    return 0


def show(document: ExplanationsDocument) -> None:
    """Show who serves each row, and its logits in parts."""
    setting = {"bundles": document.bundles, "against": document.against}
    named = [f"{name}={value}" for name, value in setting.items() if value]
    explained = [(row, by, e) for row in document.rows for by, e in _by_setting(row).items()]
    show_table(
        f"who serves {len(document.rows)} rows",
        _SERVES,
        [[_name(row), by, row.domain or "-", *_served(e)] for row, by, e in explained],
        caption=", ".join(named),
        text=("by", "domain", "kernel", "version", "tuned on"),
    )
    show_table(
        "logits in parts",
        _PARTS,
        [[_name(row), by, *cells] for row, by, e in explained for cells in _parts(e)],
        caption="base logit + h + adapters + skip = logit. A task without a logit is a product of "
        "probabilities.",
        text=("by", "task"),
        ends_in_number=True,
    )


def _by_setting(row: ExplainedRow) -> dict[str, Explanation]:
    """Return a row's explanations, by the setting that named the bundles."""
    return {"bundles": row.bundles} | ({"against": row.against} if row.against else {})


def _name(row: ExplainedRow) -> str:
    """Return the declared id of a row, or its key."""
    return str(row.row) if row.id is None else row.id


def _served(explanation: Explanation) -> list[str]:
    """Return who serves a row, in cells."""
    days = (explanation.first_day, explanation.last_day)
    return [
        explanation.kernel or "none",
        (explanation.version or "-")[:_VERSION],
        " to ".join(str(day) for day in days if day) or "-",
        number(explanation.rate_nats, 3),
        explanation.reason or "",
    ]


def _parts(explanation: Explanation) -> list[list[str]]:
    """Return a line of cells for each probability of a row."""
    logits = {task.task: task for task in explanation.tasks}
    lines = []
    for name, probability in explanation.probabilities.items():
        task = logits.get(name)
        parts = ["-"] * 6 if task is None else [
            number(task.base_probability),
            number(task.base_logit),
            *(number(part, sign=True) for part in (task.through_h, task.through_adapters)),
            number(task.through_skip, sign=True),
            number(task.logit),
        ]  # fmt: skip
        lines.append([name, *parts, number(probability)])
    return lines
