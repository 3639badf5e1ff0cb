"""`iak check`: judge and profile a log by its catalogue before anything is trained."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from iak.jobs._figures_profile import draw_profile
from iak.jobs._progress import announce, console
from iak.jobs._skipped import today_of
from iak.jobs._spec import load_catalog
from iak.jobs._tables import show_facts, show_table
from iak.pipeline.data import unseen
from iak.pipeline.data.check import Report, check_log
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.drift import Drift, NewIds
from iak.pipeline.data.profile import (
    LEAST_NEGATIVES,
    LEAST_POSITIVES,
    Labels,
    Profile,
    SplitProfile,
    power,
    profile_log,
)
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.files import put_file
from iak.schemas.job import CheckSpec
from iak.schemas.log import Catalog

REFUSED, WARNED = 1, 0
JUDGED = ("gate", "test")
"""Splits whose rows decide something."""
_MOST_DRIFTS = 12
_LEAST_NEW = 0.0005
_LEAST_SHARE = 0.001


def main(spec: CheckSpec) -> int:
    """Check and profile a log by its catalogue before anything is trained."""
    catalog = load_catalog(spec.catalog)
    if spec.picture and not spec.profile:
        raise BadRequest("picture= draws the profile; leave profile=false out, or picture=")
    with announce("checking the log", f"{spec.data_root}/{catalog.log.path}"):
        report = check_log(
            catalog,
            spec.data_root,
            sample_rows=spec.sample_rows,
            as_of=spec.as_of,
            today=today_of(spec, catalog),
            all_ids=spec.all_ids,
        )
    show(report, catalog.log.name, has_profile=spec.profile)
    profile = _profile(spec, catalog, report)
    if profile:
        show_profile(profile)
    if profile and spec.picture:
        spec.picture.parent.mkdir(parents=True, exist_ok=True)
        draw_profile(profile, catalog, spec.picture)
        console.print(f"picture at {spec.picture}", markup=False)
    if spec.json_out:
        document: dict[str, Any] = {
            "findings": [asdict(f) for f in report.findings],
            "splits": report.split_rows,
            "unseen": report.unseen,
            "counted_rows": report.counted_rows,
            "profile": asdict(profile) if profile else None,
        }
        spec.json_out.parent.mkdir(parents=True, exist_ok=True)
        put_file(spec.json_out, json.dumps(document, indent=1))
    return REFUSED if any(f.level == "refuse" for f in report.findings) else WARNED


def _profile(spec: CheckSpec, catalog: Catalog, report: Report) -> Profile | None:
    """Return the profile of the splits that have rows; None where the log cannot be read at all."""
    held = [name for name, rows in report.split_rows.items() if rows]
    if not spec.profile or not held:
        return None
    try:
        with announce("profiling", f"{report.rows:,} rows") as progress:
            view = open_log(
                catalog,
                spec.data_root,
                wanted=held,
                as_of=spec.as_of,
                today=today_of(spec, catalog),
            )
            return profile_log(
                view,
                sample_rows=spec.sample_rows,
                count_rows=spec.count_rows,
                top_domains=spec.top_domains,
                say=progress.update,
            )
    except PipelineError as error:  # a job would be refused so; the findings stand
        console.print(f"no profile: {error}", markup=False)
        return None


def _told(finding: Finding) -> str:
    """Return what was found, what to do, and where it shows."""
    where = f" [{'; '.join(finding.examples)}]" if finding.examples else ""
    return f"{finding.what}. {finding.remedy}{where}"


def share_text(share: float) -> str:
    """Return a share as it is read; a dash where no rows are counted."""
    if not share:
        return "-"
    return f"{share:.1%}" if share >= _LEAST_SHARE else f"under {_LEAST_SHARE:.1%}"


def show(report: Report, name: str, *, has_profile: bool = False) -> None:
    """Show the findings, worst first, and what each split holds.

    Args:
        report: of the check.
        name: of the log.
        has_profile: a profile follows, whose table of new ids says more than the line here.
    """
    order = ("refuse", "quarantine", "warn")
    findings: Sequence[Finding] = sorted(report.findings, key=lambda f: order.index(f.level))
    if findings:
        show_table(
            f"findings in log '{name}'",
            ("level", "count", "share", "column", "what, what to do, and where"),
            [
                (f.level, f"{f.count:,} {f.unit}", share_text(f.share), f.column, _told(f))
                for f in findings
            ],
        )
    counts: Counter[str] = Counter(f.level for f in findings)
    told = ", ".join(f"{counts[level]} {level}" for level in order) if findings else "none"
    facts: dict[str, Any] = {
        "looked at": f"{report.sampled_rows:,} rows",
        "findings": told,
        "rows by split": {k: f"{v:,}" for k, v in report.split_rows.items()},
        "page checksums": _checksums(report),
    }
    if not has_profile:
        facts[f"unseen ids, against those of {report.counted_rows:,} pretrain rows"] = {
            k: unseen.describe(shares) for k, shares in report.unseen.items()
        }
    show_facts(f"log '{name}': {report.files:,} files, {report.rows:,} rows", facts)
    if counts["refuse"]:
        console.print("[red]this log cannot be trained on until that is mended[/red]")


def _checksums(report: Report) -> str:
    """Say which files carry no page checksums, and what adds them."""
    lacking = report.without_checksums
    if not lacking:
        return "in every file"
    names = ", ".join(lacking[:2]) + (", ..." if len(lacking) > 2 else "")
    return (
        f"none in {len(lacking):,} of {report.files:,} files ({names}): damage in them may be read "
        "as values. The writer adds them (pyarrow: write_page_checksum=True)"
    )


def show_profile(profile: Profile) -> None:
    """Show rows and positives by split and domain, what the gate can decide, new ids and drift."""
    _show_splits(profile.splits)
    _show_domains(profile)
    _show_power(profile)
    if profile.new_ids:
        _show_new_ids(profile.new_ids)
    if profile.drift:
        _show_drift(profile.drift)
    partly = {k: f"{v:.0%}" for k, v in profile.counted.items() if v < 1}
    facts: dict[str, Any] = {
        "labels counted": f"on {partly} of the rows, scaled up" if partly else "on every row",
        "new ids and drift": f"judged on {sum(profile.sampled.values()):,} sampled rows",
    }
    if profile.pretrain_ids_share < 1:
        share = f"{profile.pretrain_ids_share:.0%} of the pre-training rows"
        facts["new ids"] = f"an upper bound: ids of {share} were read (count_rows= reads more)"
    show_facts("how this was measured", facts)


def _show_splits(profiles: Sequence[SplitProfile]) -> None:
    """Show a line a split; labelled rows where they are not all rows."""
    tasks = [labels.task for labels in profiles[0].labels]
    masked = [at for at in range(len(tasks)) if any(p.labels[at].rows != p.rows for p in profiles)]
    show_table(
        "rows and positives by split",
        (
            "split",
            "rows",
            *(f"{tasks[at]} labelled" for at in masked),
            *(f"{task} positives" for task in tasks),
            f"what {tasks[0]} can decide",
        ),
        [
            (
                p.split,
                f"{p.rows:,}",
                *(f"{p.labels[at].rows:,}" for at in masked),
                *(_positives(labels) for labels in p.labels),
                power(p.labels[0]) if p.split in JUDGED else "",
            )
            for p in profiles
        ],
    )


def _positives(labels: Labels) -> str:
    rate = labels.rate
    return f"{labels.positives:,} ({rate:.2%})" if rate is not None else "no label"


def _show_domains(profile: Profile) -> None:
    """Show a line a domain: rows by split, and the first task's positives in the gate."""
    names = list(dict.fromkeys(p.part for p in profile.domains))
    splits = [p.split for p in profile.splits]
    by = {(p.split, p.part): p for p in profile.domains}
    task = profile.splits[0].labels[0].task
    judged = "gate" if "gate" in splits else splits[-1]
    lines = []
    for name in names:
        rows = [by[s, name].rows if (s, name) in by else 0 for s in splits]
        held = by.get((judged, name))
        told = power(held.labels[0]) if held and name[0] != "(" else "-"
        lines.append((name, *(f"{count:,}" for count in rows), told))
    counted = max(profile.domain_counts.values(), default=0)
    show_table(
        f"rows by domain and split ({counted:,} domains in the fullest split)",
        ("domain", *splits, f"{task} in {judged}"),
        lines,
    )


def _show_power(profile: Profile) -> None:
    """Show what the gate and the test can decide, in words."""
    facts = {
        f"{labels.task} in {p.split}": power(labels)
        for p in profile.splits
        if p.split in JUDGED
        for labels in p.labels[1:]
    }
    for task, counts in profile.undecided.items():
        facts[f"domains that {task} cannot be judged in"] = (
            f"{counts['too few']:,} of {counts['domains']:,} with gate rows: fewer than "
            f"{LEAST_POSITIVES} positives or {LEAST_NEGATIVES} negatives"
        )
    if facts:
        show_facts("what can be decided", facts)


def _show_new_ids(new_ids: Sequence[NewIds]) -> None:
    splits = list(dict.fromkeys(one.split for one in new_ids))
    by = {(one.table, one.split): one.share for one in new_ids}
    tables = list(dict.fromkeys(one.table for one in new_ids))
    shown = [t for t in tables if any(by.get((t, s), 0.0) >= _LEAST_NEW for s in splits)]
    if shown:
        show_table(
            "ids that the pre-training rows do not hold, share of occurrences",
            ("table", *splits, "occurrences looked at"),
            [
                (
                    table,
                    *(f"{by[table, s]:.1%}" if (table, s) in by else "-" for s in splits),
                    f"{sum(one.ids for one in new_ids if one.table == table):,}",
                )
                for table in shown
            ],
        )
    console.print(f"  {len(tables) - len(shown)} tables meet hardly a new id after pretrain")


def _show_drift(drift: Sequence[Drift]) -> None:
    """Show the features that moved most; how many stayed."""
    pairs = sorted({(d.before, d.after) for d in drift})
    by = {(d.feature, d.before, d.after): d for d in drift}
    names = list(dict.fromkeys(d.feature for d in drift))
    shown = names[:_MOST_DRIFTS]
    show_table(
        "drift of features (stability index; from .10 moved, from .25 changed)",
        ("feature", *(f"{a} to {b}" for a, b in pairs), "noise stays below"),
        [
            (
                name,
                *(f"{by[name, a, b].index:.3f} {by[name, a, b].word}" for a, b in pairs),
                f"{max(by[name, a, b].noise for a, b in pairs):.3f}",
            )
            for name in shown
        ],
    )
    rest = [d for d in drift if d.feature not in shown]
    if rest:
        moved = len({d.feature for d in rest if d.word != "stable"})
        console.print(f"  {len(names) - len(shown)} more features, {moved} of them moved")
