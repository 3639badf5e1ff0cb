"""What is refused before Ray starts, and before a log is listed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from iak.jobs import cli
from iak.jobs.local_launcher import LocalLauncher
from iak.jobs.ray_launcher import RayLauncher
from iak.pipeline.errors import BadRequest, DoesNotFit, WrongBase
from iak.pipeline.events import silent
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.runs import evaluate, finetune, log, preflight
from iak.pipeline.runs.load import catalog_path
from iak.schemas.job import EvaluateSpec, FrozenTablesSpec, ModelSpec
from iak.schemas.manifest import BaseManifest
from tests.builders import small_catalog
from tests.unit.publish.test_bundle import BASE, SCHEMA, write
from tests.unit.schemas.test_manifest import base as manifest_document

OPENED = SimpleNamespace(manifest=SimpleNamespace(fingerprint=BASE, schema_hash=SCHEMA))


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch):
    """Fail the test where a job lists a log or starts Ray."""

    def started(*_, **__):
        pytest.fail("the request should have been refused before this")

    monkeypatch.setattr(LocalLauncher, "run", started)
    monkeypatch.setattr(log, "open_log", started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def asked(verb, tmp_path, *words):
    log = ["catalog=frappe", f"data_root={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    return cli.run([verb, *log, *words])


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("evaluate", ["base={tmp}/nope"]),
        ("finetune", ["base={tmp}/nope"]),
        ("pretrain", ["from={tmp}/nope"]),
        ("pretrain", ["placement.plan={tmp}/nope"]),
    ],
)
def test_a_missing_base_or_plan_is_refused_at_once(verb, words, tmp_path, capsys):
    assert asked(verb, tmp_path, *(word.format(tmp=tmp_path) for word in words)) == 2
    assert "nope" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "setting"), [("evaluate", "bundles"), ("finetune", "live")])
def test_a_wrong_bundles_folder_is_refused_at_once(verb, setting, tmp_path, monkeypatch, capsys):
    job = {"evaluate": evaluate, "finetune": finetune}[verb]
    monkeypatch.setattr(job, "open_frozen_base", lambda *_: OPENED)
    monkeypatch.setattr(job, "check_frozen_fits", lambda *_, **__: None)
    assert asked(verb, tmp_path, f"base={tmp_path}", f"{setting}={tmp_path / 'nope'}") == 2
    told = capsys.readouterr().err
    assert f"{setting}={tmp_path / 'nope'} does not exist" in told


def test_bundles_of_another_base_are_refused_by_their_manifests(tmp_path, monkeypatch, capsys):
    write(tmp_path / "bundles", base_fingerprint="d" * 64)
    write_index(tmp_path / "bundles")
    monkeypatch.setattr(evaluate, "open_frozen_base", lambda *_: OPENED)
    monkeypatch.setattr(evaluate, "check_frozen_fits", lambda *_, **__: None)
    assert asked("evaluate", tmp_path, f"base={tmp_path}", f"bundles={tmp_path / 'bundles'}") == 2
    assert "was tuned on base dddd" in capsys.readouterr().err


def test_a_run_folder_stands_for_its_bundles(tmp_path):
    write(tmp_path / "run" / "bundles")
    write_index(tmp_path / "run" / "bundles")
    for place in (tmp_path / "run", tmp_path / "run" / "bundles"):
        found = preflight.bundles_folder(place, OPENED, setting="bundles")
        assert found.path == (tmp_path / "run" / "bundles").resolve()
    with pytest.raises(BadRequest, match="is empty of bundles"):
        preflight.bundles_folder(tmp_path, OPENED, setting="bundles")


def test_no_weights_are_read(tmp_path):
    folder = write(tmp_path / "bundles")
    write_index(tmp_path / "bundles")
    (folder / "kernel.safetensors").unlink()
    preflight.bundles_folder(tmp_path / "bundles", OPENED, setting="bundles")
    other = SimpleNamespace(manifest=SimpleNamespace(fingerprint="e" * 64, schema_hash=SCHEMA))
    with pytest.raises(WrongBase):
        preflight.bundles_folder(tmp_path / "bundles", other, setting="bundles")


@pytest.mark.parametrize(("verb", "setting"), [("evaluate", "bundles"), ("finetune", "live")])
def test_a_night_that_was_not_published_is_refused_at_once(
    verb, setting, tmp_path, monkeypatch, capsys
):
    job = {"evaluate": evaluate, "finetune": finetune}[verb]
    monkeypatch.setattr(job, "open_frozen_base", lambda *_: OPENED)
    monkeypatch.setattr(job, "check_frozen_fits", lambda *_, **__: None)
    killed, half = tmp_path / "killed", tmp_path / "half"
    killed.mkdir()
    (killed / "tune.safetensors").write_bytes(b"")
    write(half / "bundles")
    for place in (killed, half):
        assert asked(verb, tmp_path, f"base={tmp_path}", f"{setting}={place}") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "a night that was killed before it was published" in told
        assert "`iak finetune` again with the same settings" in told


def spec(**changes):
    return EvaluateSpec(catalog="frappe", data_root="d", run_dir="r", base="b", **changes)


def test_a_device_that_is_not_there_is_refused_unless_a_cluster_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    preflight.check_workers(spec(device="cuda", workers=1), silent, is_elsewhere=False)
    with pytest.raises(DoesNotFit, match="1 GPUs"):
        preflight.check_workers(spec(device="cuda", workers=2), silent, is_elsewhere=False)
    preflight.check_workers(spec(device="cuda", workers=2), silent, is_elsewhere=True)


def test_more_workers_than_cores_are_warned_of(monkeypatch):
    monkeypatch.setattr(preflight.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    events = []
    preflight.check_workers(spec(workers=2), events.append, is_elsewhere=False)
    assert not events
    preflight.check_workers(spec(workers=3), events.append, is_elsewhere=False)
    assert "share 2 cores" in events[0].text


def test_workers_whose_libraries_fill_the_machine_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DoesNotFit, match=r"workers=10000 need about 5000 GiB") as told:
        preflight.check_workers(spec(workers=10_000), silent, is_elsewhere=False)
    assert told.value.exit_code == 3
    preflight.check_workers(spec(workers=10_000), silent, is_elsewhere=True)


def test_tables_that_no_memory_holds_are_refused_before_the_log_is_read(tmp_path, capsys):
    text = catalog_path(Path("frappe")).read_text()
    path = tmp_path / "c.toml"
    path.write_text(text + '\n[tables.city_id]\nencoding = "hash"\nrows = 90_000_000_000\n')
    assert (
        cli.run(
            ["pretrain", f"catalog={path}", f"data_root={tmp_path}", f"run_dir={tmp_path / 'r'}"]
        )
        == 3
    )
    told = capsys.readouterr().err
    assert "The largest is tables.city_id: 90,000,000,000 rows of width" in told
    assert "run on a cluster by RAY_ADDRESS" in told


def test_a_table_that_its_vocabulary_made_large_is_refused_by_name():
    catalog = small_catalog()
    rows = {"item": 10**11, "user_id": 5}
    with pytest.raises(DoesNotFit, match=r"The largest is tables\.item: 100,000,000,000 rows"):
        preflight.check_training_fits(spec(), catalog, ModelSpec(), rows=rows, is_elsewhere=False)
    preflight.check_training_fits(
        spec(), catalog, ModelSpec(), rows={"item": 1000}, is_elsewhere=False
    )


def test_a_trunk_that_no_memory_holds_is_refused_by_its_widths():
    wide = ModelSpec(mlp=(65_536,) * 64)
    with pytest.raises(DoesNotFit, match=r"trunk and towers of 2 workers need .* Lower model\.mlp"):
        preflight.check_training_fits(spec(), small_catalog(), wide, rows={}, is_elsewhere=False)


def test_what_a_cluster_holds_is_not_judged_from_here(monkeypatch):
    assert not LocalLauncher().is_elsewhere
    assert not RayLauncher().is_elsewhere
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert RayLauncher().is_elsewhere
    preflight.check_training_fits(
        spec(), small_catalog(), ModelSpec(), rows={"item": 10**11}, is_elsewhere=True
    )


@pytest.mark.parametrize(
    ("tables", "fits"),
    [
        ({"precision": "fp32"}, False),
        ({"precision": "int8"}, True),
        ({"precision": "fp32", "mapped": True}, True),
    ],
)
def test_frozen_tables_are_measured_in_the_precision_they_are_held_in(tables, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 10**9)
    table = SimpleNamespace(name="item", rows=5_000_000, width=64)
    opened = SimpleNamespace(manifest=SimpleNamespace(tables=[table]))
    asked = FrozenTablesSpec(**tables)
    if fits:
        preflight.check_frozen_fits(spec(), opened, asked, is_elsewhere=False)
        return
    with pytest.raises(DoesNotFit, match=r"need 1 GiB in tables\.precision=fp32"):
        preflight.check_frozen_fits(spec(), opened, asked, is_elsewhere=False)


def test_what_a_precision_costs_is_told_where_too_few_rows_tell_it(monkeypatch):
    """An error of .003 beside a cost of .002 is no reason to refuse, and worth a sentence."""
    entry = {"task": "ctr", "rows": 70, "log_loss": 0.4}
    entries = [
        entry | {"precision": "fp32", "auc": 0.702},
        entry | {"precision": "int8", "auc": 0.700, "auc_error": 0.003},
    ]
    opened = SimpleNamespace(
        manifest=BaseManifest.model_validate(manifest_document(precisions=entries))
    )
    monkeypatch.setattr(preflight, "open_base", lambda _: opened)
    monkeypatch.setattr(preflight.published_base, "check_same_schema", lambda *_: None)
    told = []
    ask = (Path("base"), small_catalog(), FrozenTablesSpec())
    assert preflight.open_frozen_base(*ask, told.append) is opened
    (event,) = told
    assert event.text.startswith("int8 tables cost 0.00200 +- 0.00588 on 70 validation rows of ctr")
    assert preflight.open_frozen_base(*ask) is opened


def test_a_containers_limit_is_the_memory(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(preflight, "_CGROUP", limit)
    whole = preflight.memory_bytes()
    limit.write_text("1000000\n")
    assert preflight.memory_bytes() == 1_000_000
    limit.write_text("max\n")
    assert preflight.memory_bytes() == whole
