"""`iak synth`: what is written is said; asked again, the same log is there already."""

import pyarrow.parquet as pq
import pytest

from iak.jobs import cli

SMALL = ("rows=500", "days=2", "regions=2", "users=60", "items=80", "shops=24")


@pytest.fixture
def synth(tmp_path, capsys):
    """Run the verb; its exit code, what it prints, and what it complains about."""

    def run(*words):
        code = cli.run(["synth", f"out={tmp_path / 'log'}", *SMALL, *words])
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return run


def event_files(folder):
    return sorted((folder / "log" / "events").rglob("*.parquet"))


def test_a_log_is_written_and_its_rows_are_those_that_are_said(synth, tmp_path):
    code, said, _ = synth()
    assert code == 0
    assert f"planted log at {tmp_path / 'log'}: written in" in said
    assert "rows: 500 " in said
    assert sum(pq.read_metadata(path).num_rows for path in event_files(tmp_path)) == 500


def test_the_same_log_asked_for_again_is_there_already(synth, tmp_path):
    _, first, _ = synth()
    before = {path: path.stat().st_mtime_ns for path in event_files(tmp_path)}
    code, again, _ = synth()
    assert code == 0
    assert "was there already" in again
    assert again.endswith("rows/s: -")
    digest = first.partition("digest: ")[2].split()[0]
    assert f"digest: {digest} " in again
    assert before == {path: path.stat().st_mtime_ns for path in event_files(tmp_path)}


def test_a_setting_out_of_bounds_writes_nothing(synth, tmp_path):
    code, said, complaint = synth("rows=0")
    assert (code, said) == (2, "")
    assert "rows" in complaint
    assert not (tmp_path / "log").exists()
