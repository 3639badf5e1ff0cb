"""`iak check`: judge a log by its catalogue before anything is trained."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from jobs._progress import console
from jobs._record import replace_text
from jobs._skipped import today_of
from jobs._spec import load_catalog
from jobs._tables import show_facts, show_table
from pipeline.data.check import Report, check_log
from pipeline.data.contract import Finding
from schemas.job import CheckSpec

REFUSED, WARNED = 1, 0


def main(spec: CheckSpec) -> int:
    """Check a log against its catalogue before anything is trained."""
    catalog = load_catalog(spec.catalog)
    report = check_log(
        catalog,
        spec.data_root,
        sample_rows=spec.sample_rows,
        as_of=spec.as_of,
        today=today_of(spec, catalog),
        all_ids=spec.all_ids,
    )
    show(report, catalog.log.name)
    if spec.json_out:
        document = {"findings": [asdict(f) for f in report.findings], "splits": report.split_rows}
        replace_text(spec.json_out, json.dumps(document, indent=1))
    return REFUSED if any(f.level == "refuse" for f in report.findings) else WARNED


def show(report: Report, name: str) -> None:
    """The findings, worst first, and what each split holds."""
    order = ("refuse", "quarantine", "warn")
    findings: Sequence[Finding] = sorted(report.findings, key=lambda f: order.index(f.level))
    if findings:
        show_table(
            f"findings in log '{name}'",
            ("level", "count", "column", "file", "what, and what to do"),
            [
                (f.level, f"{f.count:,}", f.column, f.file, f"{f.what}. {f.remedy}")
                for f in findings
            ],
        )
    counts: Counter[str] = Counter(f.level for f in findings)
    told = ", ".join(f"{counts[level]} {level}" for level in order) if findings else "none"
    show_facts(
        f"log '{name}': {report.files:,} files, {report.rows:,} rows",
        {
            "looked at": f"{report.sampled_rows:,} rows",
            "findings": told,
            "rows by split": {k: f"{v:,}" for k, v in report.split_rows.items()},
        },
    )
    if counts["refuse"]:
        console.print("[red]this log cannot be trained on until that is mended[/red]")
