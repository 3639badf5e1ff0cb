"""Show a log's profile: rows and positives, what the gate can decide, new ids and drift."""

from collections.abc import Sequence
from typing import Any

from iak.jobs.progress import console
from iak.jobs.tables import show_facts, show_table
from iak.pipeline.data.drift import Drift, NewIds
from iak.pipeline.data.profile import (
    MIN_NEGATIVES,
    MIN_POSITIVES,
    Labels,
    Profile,
    SplitProfile,
    power,
)
from iak.pipeline.data.unseen import HARDLY_ANY

JUDGED = ("gate", "test")
"""Splits on which kernels are judged."""
_MAX_DRIFTS = 12


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
    """Show a line for each split, with its labelled rows where they are not all rows."""
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
    """Show a line for each domain: rows by split, and the first task's positives in the gate."""
    names = list(dict.fromkeys(p.part for p in profile.domains))
    splits = [p.split for p in profile.splits]
    by = {(p.split, p.part): p for p in profile.domains}
    task = profile.splits[0].labels[0].task
    judged = "gate" if "gate" in splits else splits[-1]
    lines = []
    for name in names:
        rows = [by[s, name].rows if (s, name) in by else 0 for s in splits]
        part = by.get((judged, name))
        can_decide = power(part.labels[0]) if part and name[0] != "(" else "-"
        lines.append((name, *(f"{count:,}" for count in rows), can_decide))
    counted = max(profile.domain_counts.values(), default=0)
    show_table(
        f"rows by domain and split ({counted:,} domains in the fullest split)",
        ("domain", *splits, f"{task} in {judged}"),
        lines,
    )


def _show_power(profile: Profile) -> None:
    """Show how small a difference the gate and the test can detect."""
    facts = {
        f"{labels.task} in {p.split}": power(labels)
        for p in profile.splits
        if p.split in JUDGED
        for labels in p.labels[1:]
    }
    for task, counts in profile.undecided.items():
        facts[f"domains that {task} cannot be judged in"] = (
            f"{counts['too few']:,} of {counts['domains']:,} with gate rows: fewer than "
            f"{MIN_POSITIVES} positives or {MIN_NEGATIVES} negatives"
        )
    if facts:
        show_facts("what can be decided", facts)


def _show_new_ids(new_ids: Sequence[NewIds]) -> None:
    splits = list(dict.fromkeys(one.split for one in new_ids))
    by = {(one.table, one.split): one.share for one in new_ids}
    tables = list(dict.fromkeys(one.table for one in new_ids))
    shown = [t for t in tables if any(by.get((t, s), 0.0) >= HARDLY_ANY for s in splits)]
    if shown:
        show_table(
            "ids that the pre-training rows do not have, share of occurrences",
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
    rest = len(tables) - len(shown)
    console.print(f"  {rest} of {len(tables)} tables meet hardly any new id after pretrain")


def _show_drift(drift: Sequence[Drift]) -> None:
    """Show the features that moved most, and how many others there are."""
    pairs = sorted({(d.before, d.after) for d in drift})
    by = {(d.feature, d.before, d.after): d for d in drift}
    names = list(dict.fromkeys(d.feature for d in drift))
    shown = names[:_MAX_DRIFTS]
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
