"""`iak nightly status`: one screen, without torch."""

import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from iak.jobs import cli, nightly
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.report.metrics import metrics_text
from iak.pipeline.runs.nightly_file import commented
from iak.pipeline.runs.nightly_records import changed
from iak.schemas.nightly_job import NightlyCheckSpec, NightlyRunSpec
from tests.nights import some_nights
from tests.ports import free_port
from tests.unit.tracking.fake_mlflow import fake_mlflow

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path):
    """A `nightly.toml`; catalogue, log and base are not looked at by `status`."""
    path = tmp_path / "nightly.toml"
    (tmp_path / "base").mkdir()
    settings = {
        "name": "shop", "catalog": "planted", "data_root": "/logs", "base": tmp_path / "base",
        "registry": tmp_path / "registry", "nights": tmp_path / "nights",
    }  # fmt: skip
    path.write_text(commented(settings))
    return path


def status(file, capsys, *words):
    assert cli.run(["nightly", "status", str(file), *words]) == 0
    return capsys.readouterr().out


def test_before_the_first_night_it_says_so(file, capsys):
    assert "no night has run" in status(file, capsys)


def test_it_shows_the_newest_nights_and_what_is_held(file, capsys):
    nights = some_nights(4)
    for record in nights:
        changed(file.parent / "nights", record)
    shown = status(file, capsys, "last=2")
    assert [str(record.night) in shown for record in nights] == [False, False, True, True]
    held = [d for d in nights[-1].domains if d.outcome == "held"]
    assert held
    assert all(domain.decision.name in shown for domain in held)


def test_a_log_without_dates_gets_no_file_of_nights(tmp_path, capsys):
    (tmp_path / "base").mkdir()
    out = tmp_path / "new.toml"
    words = ["catalog=frappe", f"base={tmp_path / 'base'}", f"out={out}"]
    assert cli.run(["nightly", "init", *words]) == 2
    assert "log.date_key or log.event_time" in capsys.readouterr().err
    assert not out.exists()


def test_a_record_that_cannot_be_read_is_a_warning(file, capsys):
    (record,) = some_nights(1)
    changed(file.parent / "nights", record)
    broken = file.parent / "nights" / "2026-01-01-x"
    broken.mkdir()
    (broken / "night.json").write_text("{")
    assert "warning: " in status(file, capsys)


def test_a_night_of_a_cluster_is_not_run_here(file):
    text = file.read_text().replace('# cluster = "local"', 'cluster = "http://127.0.0.1:9"')
    file.write_text(text)
    with pytest.raises(PipelineError, match=r"no Ray job server answers at http://127\.0\.0\.1:9"):
        nightly.run(NightlyRunSpec(file=file))


@pytest.mark.parametrize("code", [200, 401])
def test_the_token_of_mlflow_comes_from_the_environment_and_is_not_shown(
    file, monkeypatch, capsys, code
):
    monkeypatch.setenv(nightly.TOKEN, "T0KEN")
    with fake_mlflow() as server:
        server.codes = [code]
        text = file.read_text().replace("# tracking =", f'tracking = "{server.address}"  #')
        file.write_text(text)
        with pytest.raises(BadRequest):  # its base is an empty folder
            nightly.check(NightlyCheckSpec(file=file))
        shown = "".join(capsys.readouterr())
        ((_, _, headers),) = server.requests
    assert headers["Authorization"] == "Bearer T0KEN"
    assert ("notify.tracking" in shown) == (code == 401)
    assert "T0KEN" not in shown


def test_status_loads_neither_torch_nor_ray():
    code = "import sys, iak.jobs.nightly; print({'torch', 'ray'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"


def test_a_watch_serves_metrics_while_it_waits_where_a_port_is_named(file, capsys, monkeypatch):
    scraped = []
    (record,) = some_nights(1)
    changed(file.parent / "nights", record)

    def waits(spec, _run_night):
        with urlopen(f"http://127.0.0.1:{spec.metrics_port}/metrics", timeout=30) as answer:
            scraped.extend(answer.read().splitlines())

    monkeypatch.setattr(nightly, "watch", waits)
    monkeypatch.setattr(nightly.signal, "signal", lambda *_: None)  # pytest's own stays
    port = free_port()
    assert cli.run(["nightly", "watch", str(file), f"metrics_port={port}"]) == 0
    assert sorted(scraped) == sorted(metrics_text(record).splitlines())
    assert f"http://127.0.0.1:{port}/metrics" in capsys.readouterr().out
    monkeypatch.setattr(nightly, "watch", lambda *_: None)
    assert cli.run(["nightly", "watch", str(file)]) == 0
    assert "metrics" not in capsys.readouterr().out
