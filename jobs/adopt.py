"""`iak adopt`: publish a recommender that was made elsewhere as a base."""

from iak.jobs.console_report import console_report
from iak.jobs.progress import console
from iak.jobs.tables import number, precision_costs, show_facts, show_table
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.load import load_catalog
from iak.schemas.adoption import DomainQuality
from iak.schemas.job import AdoptSpec
from iak.schemas.manifest import BaseManifest
from iak.schemas.paths import reference_text
from iak.schemas.results import AdoptResult
from iak.schemas.training import TaskQuality

_DOMAINS_SHOWN = 12
_COLUMNS = ("task", "rows", "positives", "log-loss", "AUC", "predicted/observed")


def main(spec: AdoptSpec) -> int:
    """Check a base that was made elsewhere, by its columns or its module, and publish it."""
    with console_report() as report:
        result = adopt_base(spec, load_catalog(spec.catalog), report)
    show(result)
    return result.exit_code


def show(adopted: AdoptResult) -> None:
    """Show how well the given logits predict, over all rows and by domain, and what was seen."""
    adoption = adopted.adoption
    show_table(
        "the given logits on validation rows",
        _COLUMNS,
        [_line(task) for task in adoption.quality.tasks],
    )
    largest = sorted(adoption.quality.domains, key=_rows, reverse=True)[:_DOMAINS_SHOWN]
    show_table(
        f"by domain, {len(largest)} of {len(adoption.quality.domains)}",
        ("domain", *_COLUMNS),
        [(domain.domain, *_line(task)) for domain in largest for task in domain.tasks],
    )
    show_facts(
        f"base {adoption.fingerprint[:12]} published at {reference_text(adopted.base)}",
        {
            "rows read": f"{adoption.rows:,}",
            "range of the logits": "; ".join(
                f"{column.column} {column.low:.2f} to {column.high:.2f}"
                for column in adoption.ranges
            ),
            **_tables(adopted.manifest),
            "quarantined": adoption.contract or "nothing",
            "seconds": adopted.record.timings_s,
        },
    )
    for line in adoption.advice:
        console.print(line, markup=False)


def _tables(manifest: BaseManifest) -> dict[str, str]:
    """Return facts about the tables that workers share; none where the base has no tables."""
    if not manifest.tables:
        return {}
    rows = sum(table.rows for table in manifest.tables)
    return {
        "tables that workers share": f"{len(manifest.tables)}, {rows:,} rows",
        "tables in low precision": precision_costs(manifest),
    }


def _rows(domain: DomainQuality) -> int:
    return max(task.rows for task in domain.tasks)


def _line(task: TaskQuality) -> tuple[str, ...]:
    return (
        task.task,
        f"{task.rows:,}",
        f"{task.positives:,}",
        number(task.log_loss, 5),
        number(task.auc),
        number(task.calibration, 3),
    )
