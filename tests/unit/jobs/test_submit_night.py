"""A night on a cluster: what is sent, and the settings that make no sense elsewhere."""

import subprocess
import sys

import pytest

from iak.jobs import submit_night as submitting
from iak.jobs.job_server import submission_prefix
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import load_nightly
from iak.schemas.nightly_job import NightlyRunSpec

NIGHTLY = """
name = "shop"
catalog = "shop.toml"
data_root = "s3://logs/shop"
base = "{base}"
registry = "s3://models/shop"
nights = "/shared/nights"
cluster = "http://127.0.0.1:8265"
allow = ["SHOP_KEY", "SHOP_MISSING"]
"""


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """Submit nights of a file without a cluster; return what would be submitted."""
    submissions = []
    monkeypatch.setattr(submitting, "submit", lambda asked: submissions.append(asked) or 0)
    monkeypatch.setenv("SHOP_KEY", "k")
    (tmp_path / "shop.toml").write_text("# a catalogue\n")
    file = tmp_path / "nightly.toml"

    def run(base="/shared/base", **asked):
        file.write_text(NIGHTLY.format(base=base))
        assert submitting.submit_night(NightlyRunSpec(file=file, **asked), load_nightly(file)) == 0
        return submissions[-1]

    return run


def test_the_file_and_its_catalogue_travel_and_the_job_runs_there(sent, tmp_path):
    asked = sent(date="2026-10-28", rows=500)
    assert asked.words == [
        "nightly",
        "run",
        "nightly.toml",
        "here=true",
        "date=2026-10-28",
        "rows=500",
    ]
    assert asked.files == {
        "nightly.toml": tmp_path / "nightly.toml",
        "shop.toml": tmp_path / "shop.toml",
    }
    assert asked.address == "http://127.0.0.1:8265"


def test_only_allowed_variables_travel(sent, capsys):
    assert sent().environment == {"SHOP_KEY": "k"}
    assert "not sent: SHOP_MISSING" in capsys.readouterr().out


def test_a_relative_path_is_refused(sent):
    with pytest.raises(BadRequest, match=r"base=runs/base: relative paths"):
        sent(base="runs/base")


def test_another_file_with_the_same_words_is_another_job(sent):
    first = submission_prefix(*_identity(sent()))
    assert submission_prefix(*_identity(sent())) == first
    assert submission_prefix(*_identity(sent(base="/shared/other"))) != first


def _identity(asked):
    return asked.words, asked.files


def test_sending_a_night_loads_neither_torch_nor_pyarrow():
    code = "import sys, iak.jobs.submit_night; print({'torch', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
