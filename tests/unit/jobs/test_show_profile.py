"""A profile on the console: rows, positives, what can be decided, new ids, drift."""

import dataclasses

import pytest
from rich.console import Console

from iak.jobs import show_profile as profile_module
from iak.jobs import tables
from iak.jobs.show_profile import show_profile
from iak.pipeline.data.drift import Drift, NewIds
from iak.pipeline.data.profile import Labels, Profile, SplitProfile


def part(split, name, rows, *positives, labelled=None):
    labels = tuple(
        Labels(task=task, rows=rows if labelled is None else labelled, positives=count)
        for task, count in zip(("ctr", "cvr"), positives, strict=False)
    )
    return SplitProfile(split=split, part=name, rows=rows, labels=labels)


def drift(feature, index, word="stable"):
    return Drift(
        feature=feature, before="pretrain", after="tune", index=index, noise=0.01, word=word
    )


PROFILE = Profile(
    splits=(part("tune", "all", 5_000, 900, 90), part("gate", "all", 1_000, 200, 20)),
    domains=(
        part("tune", "region=rome", 4_000, 800, 80),
        part("tune", "(other domains)", 1_000, 100, 10),
        part("gate", "region=rome", 900, 180, 18),
    ),
    days=(),
    domain_counts={"tune": 7, "gate": 3},
    undecided={"ctr": {"domains": 3, "too few": 1}},
    new_ids=(),
    drift=(),
    counted={"tune": 1.0},
    sampled={"tune": 400, "gate": 100},
    pretrain_ids_share=1.0,
)


@pytest.fixture
def shown(monkeypatch):
    console = Console(record=True, width=200, force_terminal=False, highlight=False)
    for module in (profile_module, tables):
        monkeypatch.setattr(module, "console", console)

    def show(**changes):
        show_profile(dataclasses.replace(PROFILE, **changes))
        return console.export_text()

    return show


def line_of(text, *words):
    """The first line that has all of these words."""
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_every_split_shows_its_rows_and_the_rate_of_each_task(shown):
    text = shown()
    assert "900 (18.00%)" in line_of(text, "tune", "5,000")
    assert "20 (2.00%)" in line_of(text, "gate", "1,000")
    assert "labelled" not in text


def test_labelled_rows_have_a_column_where_labels_lack(shown):
    splits = (part("tune", "all", 5_000, 900, 90, labelled=4_000), *PROFILE.splits[1:])
    text = shown(splits=splits)
    assert "ctr labelled" in text
    assert "900 (22.50%)" in line_of(text, "tune", "4,000")


def test_a_task_without_any_label_says_so(shown):
    assert "no label" in shown(splits=(part("tune", "all", 5, 0, 0, labelled=0),))


def test_domains_show_rows_of_each_split_and_what_the_gate_can_decide(shown):
    text = shown()
    assert "(7 domains in the fullest split)" in text
    assert "900" in line_of(text, "region=rome", "4,000")
    assert line_of(text, "(other domains)").rstrip(" │|").endswith("-")


def test_domains_that_cannot_be_judged_are_counted(shown):
    assert "1 of 3 with gate rows: fewer than 30 positives" in shown()


def test_tables_with_hardly_a_new_id_are_counted_and_not_listed(shown):
    new_ids = (
        NewIds(table="item", split="tune", ids=100, share=0.25),
        NewIds(table="region", split="tune", ids=100, share=0.0001),
    )
    text = shown(new_ids=new_ids)
    assert "25.0%" in line_of(text, "item")
    assert "1 of 2 tables meet hardly any new id" in text
    assert not [line for line in text.splitlines() if "region" in line and "0.0%" in line]


def test_drift_shows_twelve_features_and_counts_the_others(shown):
    moved = [drift(f"f{i:02}", 0.3, "changed") for i in range(12)]
    rest = [drift("g1", 0.12, "moved"), drift("g2", 0.01)]
    text = shown(drift=(*moved, *rest))
    assert "0.300 changed" in line_of(text, "f11")
    assert "g1" not in text
    assert "2 more features, 1 of them moved" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "labels counted: on every row"),
        ({"counted": {"tune": 0.5}}, "on {'tune': '50%'} of the rows, scaled up"),
        ({}, "judged on 500 sampled rows"),
        ({"pretrain_ids_share": 0.2}, "an upper bound: ids of 20% of the pre-training rows"),
    ],
)
def test_how_it_was_measured_is_said(shown, changes, says):
    assert says in shown(**changes)
