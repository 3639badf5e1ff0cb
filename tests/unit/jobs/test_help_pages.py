"""A verb's help shows what is needed first, then its settings in groups."""

import re

from iak.jobs import cli
from iak.jobs.help_pages import CHAPTERS
from iak.jobs.verbs import GROUPS, VERBS


def shown(capsys, *words):
    """The help of a command, as its panels: title -> text."""
    assert cli.run([*words, "--help"]) == 0
    out = capsys.readouterr().out
    titles = re.findall(r"╭─ (\S+) ─", out)
    panels = re.split(r"╭─ \S+ ─+╮", out)[1:]
    return dict(zip(titles, panels, strict=True))


def test_what_is_needed_stands_first_then_each_group_by_itself(capsys):
    panels = shown(capsys, "finetune")
    assert list(panels)[:3] == ["Needed", "Settings", "placement"]
    assert re.findall(r"│ --(\S+)", panels["Needed"]) == [
        "catalog", "data-root", "run-dir", "base",
    ]  # fmt: skip
    assert set(re.findall(r"│ --(\w+)\.", panels["placement"])) <= {"placement"}
    assert {"kernel", "pooled", "domain", "gate", "tables", "cache"} <= set(panels)
    assert "--config" in panels["Settings"]


def test_a_verb_that_needs_nothing_has_no_panel_of_it(capsys):
    assert list(shown(capsys, "demo")) == ["Settings"]


def test_help_breaks_where_the_window_ends_and_not_where_the_source_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    text = shown(capsys, "pretrain")["Settings"]
    assert "Folder" not in text  # those of what is needed
    assert "is neither stray nor beyond today. Never later than today." in text
    assert "catalogue's, else the newest date of the log that is neither" in text


def test_a_flag_shows_how_it_is_turned_off_and_a_default_is_shown(capsys):
    text = " ".join(shown(capsys, "pretrain")["Settings"].split())
    assert "--bf16 --no-bf16" in text
    assert "[default: 262144]" in text


def test_every_verb_stands_in_one_chapter_of_the_list(capsys):
    listed = [name for names in CHAPTERS.values() for name in names]
    assert sorted(listed) == sorted({*GROUPS, *(verb for verb in VERBS if " " not in verb)})
    assert cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    positions = [out.index(f"─ {title} ─") for title in CHAPTERS]
    assert positions == sorted(positions)
    for name in listed:
        assert re.search(rf"│ {name} ", out)


def test_the_help_of_a_group_shows_an_example_of_each_of_its_verbs(capsys):
    assert cli.run(["registry"]) == 0
    out = capsys.readouterr().out
    examples = [verb.example for name, verb in VERBS.items() if name.startswith("registry ")]
    assert all(" ".join(example.split()) in " ".join(out.split()) for example in examples)
