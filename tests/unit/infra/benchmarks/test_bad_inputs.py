"""A sample of the bad inputs is refused by name; tests/faults tries all of them."""

from collections import Counter

import pyarrow.parquet as pq
import pytest

from iak.jobs import cli, command
from infra.benchmarks.__main__ import BENCHMARKS, kind_of
from infra.benchmarks.bad_inputs import all_bad_inputs, run_bad_inputs, table_of, try_one
from infra.benchmarks.bad_inputs.files import damaged_file, write_log
from infra.benchmarks.bad_inputs.items import BadInput
from infra.benchmarks.bad_inputs.settings import leaves

SAMPLE, SEED = 120, 11


def test_a_sample_of_every_kind_is_refused_by_name(tmp_path):
    found = run_bad_inputs(tmp_path, limit=SAMPLE, seed=SEED)
    assert len(found) == SAMPLE
    assert set(Counter(outcome.kind for outcome in found).values()) == {SAMPLE // 4}
    assert [outcome for outcome in found if outcome.outcome != "refused by name"] == []


def test_a_draw_is_repeatable_and_the_corpus_large(tmp_path):
    items = all_bad_inputs()
    assert len(items) >= 650
    assert len({item.name for item in items}) == len(items)
    for kind, least in {"settings": 650, "paths": 100, "catalogues": 100, "files": 100}.items():
        assert sum(item.kind == kind for item in items) >= least
    one, other = (run_bad_inputs(tmp_path / n, limit=4, seed=3) for n in ("a", "b"))
    assert [outcome.name for outcome in one] == [outcome.name for outcome in other]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_setting_of_a_benchmark_is_tried(name):
    tried = {
        setting
        for item in all_bad_inputs()
        if item.program == "benchmarks" and item.words[0] == name
        for setting in item.must_name
    }
    assert {f"{leaf.name}q" for leaf in leaves(kind_of(name))} <= tried


def item(*words, must_name="seed"):
    return BadInput(kind="settings", name="x", words=words, must_name=(must_name,))


ASKED = ("pretrain", "catalog=frappe", "data_root={folder}", "run_dir={folder}/run")


def test_an_input_that_is_accepted_is_wrong_and_nothing_starts(tmp_path):
    assert try_one(item(*ASKED, "seed=1"), tmp_path / "a").outcome == "wrong"
    assert [path.name for path in (tmp_path / "a").iterdir()] == []


def test_a_refusal_that_does_not_name_what_it_refuses_is_wrong(tmp_path):
    assert try_one(item(*ASKED, "seed=x", must_name="speed"), tmp_path / "a").outcome == "wrong"
    assert try_one(item(*ASKED, "seed=x"), tmp_path / "b").outcome == "refused by name"


def test_what_leaves_iak_as_an_exception_is_a_crash(tmp_path, monkeypatch):
    def crash(*_):
        raise KeyError("seed")

    monkeypatch.setattr(command, "read_command", crash)
    found = try_one(item(*ASKED), tmp_path / "a")
    assert (found.outcome, found.message) == ("crashed", "KeyError: 'seed'")
    assert list(table_of([found])) == [("settings", 1, 0, 0, 1)]


def test_the_log_that_is_damaged_is_sound_before(tmp_path, capsys):
    write_log(tmp_path)
    words = [f"catalog={tmp_path / 'c.toml'}", f"data_root={tmp_path}", "today=2026-12-01"]
    assert cli.run(["check", *words, "profile=false"]) == 0
    told = capsys.readouterr().out
    assert "0 refuse, 0 quarantine" in told
    assert pq.read_metadata(damaged_file(tmp_path)).num_rows == 60


@pytest.mark.parametrize("words", [(), ("--help",), ("check", "--help")])
def test_help_is_no_refusal(words, tmp_path):
    assert try_one(item(*words), tmp_path / "a").outcome == "wrong"
