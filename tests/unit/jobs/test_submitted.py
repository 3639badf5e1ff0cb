"""On the cluster a command runs, and prints the documents that it left at its end."""

import sys

import pytest

from iak.jobs import cli, submitted
from iak.jobs.submitted import BEGIN, END, documents_in


def run(monkeypatch, words, code=0):
    """Run the other end with a command that ends with this code; return its exit code."""
    seen = []
    monkeypatch.setattr(cli, "run", lambda given: (seen.append(given), code)[1])
    monkeypatch.setattr(sys, "argv", ["submitted", *words])
    with pytest.raises(SystemExit) as ended:
        submitted.main()
    assert seen == [words]
    return ended.value.code


@pytest.mark.parametrize("code", [0, 4, 130])
def test_the_record_is_printed_and_the_commands_code_is_the_jobs(
    monkeypatch, tmp_path, capsys, code
):
    (tmp_path / "record.json").write_text('{"verb": "check"}\n\n')
    words = ["pretrain", "catalog=planted", "data_root=/logs", f"run_dir={tmp_path}"]
    assert run(monkeypatch, words, code) == code
    assert documents_in(capsys.readouterr().out) == {"record.json": '{"verb": "check"}\n'}


def test_a_benchs_record_and_its_cluster_file_are_printed(monkeypatch, tmp_path, capsys):
    for name in ("sharding.json", "sharding.cluster.toml", "sharding.png", "other.json"):
        (tmp_path / name).write_text(name)
    run(monkeypatch, ["bench", "sharding", f"out={tmp_path}"])
    assert list(documents_in(capsys.readouterr().out)) == [
        "sharding.json",
        "sharding.cluster.toml",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "catalog=planted"],
        ["bench", "scaling", "x=1"],
        ["check", "catalog=planted", "data_root=/logs"],
    ],
)
def test_a_command_that_left_nothing_prints_nothing(monkeypatch, capsys, words):
    assert run(monkeypatch, words, 2) == 2
    assert BEGIN not in capsys.readouterr().out


def test_what_a_document_contains_does_not_end_it():
    text = f"a\n {END}\n{END}x\n"
    logs = f"noise\n{BEGIN}a.json-----\n{text}{END}\n"
    assert documents_in(logs) == {"a.json": text}


def test_an_end_without_a_beginning_is_no_document():
    assert documents_in(f"{END}\nline\n{END}\n") == {}


def test_of_a_document_that_is_printed_twice_the_last_one_counts():
    logs = f"{BEGIN}a.json-----\n1\n{END}\n{BEGIN}a.json-----\n2\n{END}\n"
    assert documents_in(logs) == {"a.json": "2\n"}
