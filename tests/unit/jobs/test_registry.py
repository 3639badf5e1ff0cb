"""`iak registry`: what a person asks, sees and is refused, by the command line."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from iak.jobs import cli
from iak.jobs.path_settings import check_paths
from iak.pipeline.errors import BadRequest
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.registry.commits import read_head
from iak.pipeline.runs.finished_run import finished_run
from iak.pipeline.runs.outputs import bundles_output
from iak.pipeline.runs.pinned import PINNED, pinned_bundles
from iak.pipeline.runs.record import OpenRecord
from iak.pipeline.storage.folder_store import FolderStore
from iak.pipeline.tracking.mlflow_run import track_night
from iak.pipeline.tracking.mlflow_server import MlflowServer
from iak.schemas.job import EvaluateSpec
from iak.schemas.manifest import sha256_of
from iak.schemas.record import RunRecord
from tests.nights import some_nights
from tests.unit.publish.test_bundle import BASE, SCHEMA
from tests.unit.registry.nights import NAMES, ROME, night, served
from tests.unit.tracking.fake_mlflow import fake_mlflow
from tests.unit.tracking.tracked import settings, written

OPENED = SimpleNamespace(manifest=SimpleNamespace(fingerprint=BASE, schema_hash=SCHEMA))
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def run_of(
    folder, *, status="finished", verb="finetune", inputs=None, spec=None, snapshot=None,
    catalog=None, result=None, **how,
):  # fmt: skip
    """Write a run folder as `iak finetune` leaves it."""
    night(folder, **how)
    record = RunRecord(
        verb=verb, status=status, exit_code=0, spec=spec or {}, spec_digest="x", started_at=NOW,
        ended_at=NOW, commit="abc", inputs=inputs or {"base": BASE},
        outputs={"bundles": bundles_output(folder / "bundles")}, snapshot=snapshot or {},
        catalog=catalog or {}, result=result or {},
    )  # fmt: skip
    document = json.loads(record.model_dump_json())
    digest = sha256_of(document, without=frozenset({"record_sha256"}))
    (folder / "record.json").write_text(json.dumps(document | {"record_sha256": digest}))
    return folder


def iak(*words):
    return cli.run(["registry", *map(str, words)])


@pytest.fixture
def place(tmp_path):
    for seed in range(2):
        run_of(tmp_path / f"R{seed}", seed=seed, held=(ROME,) if seed else ())
    return tmp_path


def test_the_whole_way_by_the_command_line(place, capsys):
    registry = f"registry={place / 'registry'}"
    shown = place / "shown.json"
    assert iak("promote", f"run={place / 'R0'}", registry, f"json={shown}") == 0
    assert len(json.loads(shown.read_text())["moves"]) == 3
    assert iak("promote", f"run={place / 'R0'}", registry) == 6
    assert iak("promote", f"run={place / 'R1'}", registry) == 4
    assert "not promoted, the gate held it: city=rome: ctr: AUC falls" in capsys.readouterr().out
    assert iak("promote", f"run={place / 'R1'}", registry, "domains=city=rome") == 2
    assert "force=true" in capsys.readouterr().err
    assert iak("list", registry, f"json={shown}") == 0
    listed = json.loads(shown.read_text())
    assert {row["domain"] for row in listed["champion"]} == set(NAMES)
    assert listed["candidate"] == []
    rome = next(row for row in listed["champion"] if row["domain"] == "city=rome")
    assert (rome["run"], rome["code"], rome["generation"]) == (str(place / "R0"), "abc", 1)
    assert iak("diff", registry, "first=champion:1", "second=champion", f"json={shown}") == 0
    changed = [d for d in json.loads(shown.read_text())["domains"] if d["first"] != d["second"]]
    assert {row["domain"] for row in changed} == set(NAMES) - {"city=rome"}
    assert iak("rollback", registry, "domain=pooled") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"of {place / 'R0'} serves again" in told
    assert iak("show", registry, f"json={shown}") == 0
    actions = [commit["action"] for commit in json.loads(shown.read_text())["commits"]]
    assert actions == ["promote", "promote", "rollback"]
    assert iak("show", registry, "domain=city=rome") == 0
    assert "lineage of the champion" in capsys.readouterr().out
    assert iak("verify", registry) == 0
    assert iak("gc", registry, "keep=0", "dry_run=true", f"json={shown}") == 0
    assert len(json.loads(shown.read_text())["removed"]) == 2
    assert iak("gc", registry, "keep=0") == 0
    assert iak("verify", registry) == 0
    assert iak("show", registry, "domain=city=oslo%2Fa b") == 0
    assert "removed by gc" in capsys.readouterr().out


def nights_on(server, place):
    """Two nights that are promoted and tracked; return the words of a rollback."""
    for seed, record in enumerate(some_nights(2, domains=2)):
        kept, folder = written(place, record)
        track_night(MlflowServer(server.address), settings(place), kept, folder)
        run = run_of(folder / "tune", seed=seed)
        assert iak("promote", f"run={run}", f"registry={place / 'registry'}") == 0
    file = place / "nightly.toml"
    file.write_text(
        f'name = "shop"\ncatalog = "planted"\ndata_root = "/log"\nbase = "{place}"\n'
        f'registry = "{place / "registry"}"\nnights = "{place / "nights"}"\n'
        f'[notify]\ntracking = "{server.address}"\n'
    )
    return "rollback", f"registry={place / 'registry'}", f"nightly={file}"


def test_a_rollback_moves_the_alias_of_mlflow_where_no_bundle_of_a_night_serves(tmp_path, capsys):
    with fake_mlflow() as server:
        words = nights_on(server, tmp_path)
        first, *others = NAMES
        assert iak(*words, f"domain={first}") == 0
        assert server.aliases["champion"] == "2", "the newest night serves the other domains"
        assert iak(*words, *(f"domain={name}" for name in others[-1:])) == 0
        assert iak(*words, *(f"domain={name}" for name in others[:-1])) == 0
        assert server.aliases["champion"] == "1"
        assert "champion of shop in MLflow is version 1" in capsys.readouterr().out
        server.codes = [500] * 3
        assert iak(*words, f"domain={first}") == 0, "the registry moved, whatever MLflow does"
        assert "MLflow's alias did not follow" in capsys.readouterr().out


def test_a_rollback_refuses_the_file_of_another_registry(place, capsys):
    with fake_mlflow() as server:
        *_, file = nights_on(server, place)
        iak("promote", f"run={place / 'R0'}", f"registry={place / 'other'}")
        assert iak("rollback", f"registry={place / 'other'}", file, "domain=pooled") == 2
    assert "is of the registry" in capsys.readouterr().err
    assert read_head(FolderStore(place / "other")).generation == 1


def test_verify_names_every_damaged_file_and_fails(place, capsys):
    registry = place / "registry"
    iak("promote", f"run={place / 'R0'}", f"registry={registry}")
    files = sorted(registry.rglob("kernel.safetensors"))[:2]
    for file in files:
        file.write_bytes(b"x")
    assert iak("verify", f"registry={registry}", f"json={place / 'shown.json'}") == 1
    error = capsys.readouterr().err
    assert all(str(file) in error for file in files)
    assert len(json.loads((place / "shown.json").read_text())["problems"]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("promote", "registry={place}/registry"), "give either run=RUN or source=candidate"),
        (("promote", "registry={place}/registry", "source=champion"), "are the same pointers"),
        (("promote", "registry={place}/registry", "run={place}"), "has no record.json"),
        (
            (
                "promote",
                "registry={place}/registry",
                "run={place}/R0",
                "shadow={place}/R0/record.json",
            ),
            "is no file of `iak shadow json=FILE`",
        ),
        (
            ("promote", "registry={place}/registry", "run={place}/killed"),
            "finetune that is running",
        ),
        (("promote", "registry={place}/registry", "run={place}/other"), "an iak pretrain that is"),
        (("list", "registry={place}"), "is not a registry: it has no registry.json"),
        (("gc", "registry={place}"), "is not a registry: it has no registry.json"),
        (("rollback", "registry={place}", "domain=pooled"), "is not a registry"),
        (("diff", "registry={place}", "first=champion@2"), "first"),
    ],
)
def test_what_cannot_be_is_refused_in_words(place, words, told, capsys):
    run_of(place / "killed", status="running")
    run_of(place / "other", verb="pretrain")
    assert iak(*(word.format(place=place) for word in words)) == 2
    assert told in capsys.readouterr().err
    assert not (place / ".lock").exists()


def test_a_rollback_does_not_load_torch(place):
    registry = place / "registry"
    iak("promote", f"run={place / 'R0'}", f"registry={registry}")
    program = (
        "import sys; from iak.jobs import cli; "
        f"code = cli.run(['registry', 'rollback', 'registry={registry}', 'domain=pooled']); "
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pooled" not in served(read_head(FolderStore(registry)))


def test_the_parent_is_the_live_bundle_that_the_run_read(place):
    live = read_index(place / "R0" / "bundles")
    how = {"seed": 5, "inputs": {"live bundles": live.sha256}, "spec": {"live": str(place / "R0")}}
    run = finished_run(run_of(place / "R5", **how))
    assert set(run.parents) == {"pooled", "city=rome", "city=oslo%2fa%20b"}
    iak("promote", f"run={place / 'R0'}", f"registry={place / 'registry'}")
    stored = served(read_head(FolderStore(place / "registry")))
    assert run.parents["city=rome"] == stored["city=rome"]
    night(place / "R0", seed=7)  # what the run read is gone
    assert finished_run(place / "R5").parents == {}


# ---------------------------------------------------------------- bundles=registry:DIR@champion


def opened_record(run_dir, *, status=None, inputs=None):
    record = RunRecord(
        verb="evaluate", status=status or "running", spec={}, spec_digest="x", started_at=NOW,
        inputs=inputs or {},
    )  # fmt: skip
    return OpenRecord(run_dir=run_dir, record=record, before=record if status else None)


def pinned(place, run_dir, alias="champion", **held):
    reference = place if alias is None else f"registry:{place / 'registry'}@{alias}"
    spec = EvaluateSpec(
        catalog="frappe", data_root="d", run_dir=run_dir, base=run_dir.parent, bundles=reference
    )
    check_paths(spec)
    return pinned_bundles(spec.bundles, OPENED, opened_record(run_dir, **held), setting="bundles")


def test_a_plain_folder_is_taken_as_it_is(place):
    assert pinned(place, place / "E", alias=None) == place


def test_an_alias_is_fixed_when_the_run_begins_and_kept_when_it_is_resumed(place):
    registry = f"registry={place / 'registry'}"
    iak("promote", f"run={place / 'R0'}", registry)
    folder = pinned(place, place / "E")
    assert folder == place / "E" / PINNED / "bundles"
    before = read_index(folder)
    iak("promote", f"run={place / 'R1'}", registry)
    assert pinned(place, place / "E", status="running", inputs={"bundles": "a" * 64}) == folder
    assert read_index(folder) == before
    # Without inputs in its record the attempt before had read nothing yet.
    pinned(place, place / "E", status="failed")
    assert read_index(folder) != before


def test_a_finished_run_is_of_what_the_alias_meant_then(place):
    registry = f"registry={place / 'registry'}"
    iak("promote", f"run={place / 'R0'}", registry)
    folder = pinned(place, place / "E")
    finished = {"status": "finished", "inputs": {"bundles": "a" * 64}}
    assert pinned(place, place / "E", **finished) == folder
    iak("promote", f"run={place / 'R1'}", registry)
    with pytest.raises(BadRequest, match=r"the champion of .* moved since in .*pooled"):
        pinned(place, place / "E", **finished)


def test_a_reference_that_names_nothing_is_refused(place):
    iak("promote", f"run={place / 'R0'}", f"registry={place / 'registry'}")
    with pytest.raises(
        BadRequest, match=r"names no alias of a registry; expected registry:PLACE@ch"
    ):
        pinned(place, place / "E", "winner")
    with pytest.raises(BadRequest, match=r"bundles=.*registry does not exist; expected a folder"):
        pinned(place / "gone", place / "E")
