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
from pipeline.data import unseen
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
        document = {
            "findings": [asdict(f) for f in report.findings],
            "splits": report.split_rows,
            "unseen": report.unseen,
            "counted_rows": report.counted_rows,
        }
        replace_text(spec.json_out, json.dumps(document, indent=1))
    return REFUSED if any(f.level == "refuse" for f in report.findings) else WARNED


def _told(finding: Finding) -> str:
    """Return what was found, what to do, and where it shows."""
    where = f" [{'; '.join(finding.examples)}]" if finding.examples else ""
    return f"{finding.what}. {finding.remedy}{where}"


def show(report: Report, name: str) -> None:
    """The findings, worst first, and what each split holds."""
    order = ("refuse", "quarantine", "warn")
    findings: Sequence[Finding] = sorted(report.findings, key=lambda f: order.index(f.level))
    if findings:
        show_table(
            f"findings in log '{name}'",
            ("level", "count", "share", "column", "what, what to do, and where"),
            [
                (f.level, f"{f.count:,} {f.unit}", f"{f.share:.1%}", f.column, _told(f))
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
            f"unseen ids, against those of {report.counted_rows:,} pretrain rows": {
                k: unseen.describe(shares) for k, shares in report.unseen.items()
            },
        },
    )
    if counts["refuse"]:
        console.print("[red]this log cannot be trained on until that is mended[/red]")
