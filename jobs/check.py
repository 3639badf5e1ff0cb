"""`iak check`: judge and profile a log by its catalogue before anything is trained."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from iak.jobs.console_report import console_report
from iak.jobs.figures_profile import draw_profile
from iak.jobs.progress import console
from iak.jobs.show_profile import show_profile
from iak.jobs.tables import show_facts, show_table
from iak.pipeline.data import unseen
from iak.pipeline.data.check import Report
from iak.pipeline.data.contract import Finding
from iak.pipeline.errors import OK, BadRequest
from iak.pipeline.events import AnyEvent
from iak.pipeline.files import put_output
from iak.pipeline.runs.check import LogChecked, check_log
from iak.pipeline.runs.load import load_catalog
from iak.schemas.job import CheckSpec

REFUSED = 1
_MIN_SHARE = 0.001


def main(spec: CheckSpec) -> int:
    """Check and profile a log by its catalogue before anything is trained."""
    catalog = load_catalog(spec.catalog)
    if spec.picture and not spec.profile:
        raise BadRequest("picture= draws the profile; leave profile=false out, or picture=")
    with console_report() as on_console:

        def report(event: AnyEvent) -> None:
            if isinstance(event, LogChecked):  # shown before the profile, which takes longer
                show(event.report, event.log, has_profile=spec.profile)
            on_console(event)

        findings = check_log(spec, catalog, report)
    if findings.profile:
        show_profile(findings.profile)
    if findings.profile and spec.picture:
        spec.picture.parent.mkdir(parents=True, exist_ok=True)
        draw_profile(findings.profile, catalog, spec.picture)
        console.print(f"picture at {spec.picture}", markup=False)
    if spec.json_out:
        put_output(spec.json_out, json.dumps(findings.document(), indent=1))
    return REFUSED if findings.is_refused else OK


def _finding_text(finding: Finding) -> str:
    """Return a finding as text: what is wrong, what to do, and where."""
    where = f" [{'; '.join(finding.examples)}]" if finding.examples else ""
    return f"{finding.what}. {finding.remedy}{where}"


def share_text(share: float) -> str:
    """Return a share in per cent; a dash where no rows are counted."""
    if not share:
        return "-"
    return f"{share:.1%}" if share >= _MIN_SHARE else f"under {_MIN_SHARE:.1%}"


def show(report: Report, name: str, *, has_profile: bool = False) -> None:
    """Show the findings, worst first, and the rows of each split.

    Args:
        report: findings and counts of the check.
        name: name of the log.
        has_profile: whether a profile follows, whose table of new ids replaces a line here.
    """
    order = ("refuse", "quarantine", "warn")
    findings: Sequence[Finding] = sorted(report.findings, key=lambda f: order.index(f.level))
    if findings:
        show_table(
            f"findings in log '{name}'",
            ("level", "count", "share", "column", "what, what to do, and where"),
            [
                (f.level, f"{f.count:,} {f.unit}", share_text(f.share), f.column, _finding_text(f))
                for f in findings
            ],
        )
    counts: Counter[str] = Counter(f.level for f in findings)
    totals = ", ".join(f"{counts[level]} {level}" for level in order) if findings else "none"
    facts: dict[str, Any] = {
        "looked at": f"{report.sampled_rows:,} rows",
        "findings": totals,
        "rows by split": {k: f"{v:,}" for k, v in report.split_rows.items()},
        "page checksums": _checksums(report),
    }
    if not has_profile:
        facts[f"unseen ids, against those of {report.counted_rows:,} pretrain rows"] = {
            k: unseen.describe(shares) for k, shares in report.unseen.items()
        }
    show_facts(f"log '{name}': {report.files:,} files, {report.rows:,} rows", facts)
    if counts["refuse"]:
        console.print("[red]this log cannot be trained on until the errors are corrected[/red]")


def _checksums(report: Report) -> str:
    """Return a text with the files that have no page checksums, and what adds them."""
    lacking = report.without_checksums
    if not lacking:
        return "in every file"
    names = ", ".join(lacking[:2]) + (", ..." if len(lacking) > 2 else "")
    return (
        f"none in {len(lacking):,} of {report.files:,} files ({names}): damage in them may be read "
        "as values. The writer adds them (pyarrow: write_page_checksum=True)"
    )
