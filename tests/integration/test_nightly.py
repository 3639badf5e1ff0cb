"""Nights as a platform has them: one after the other, late, damaged, interrupted, two at once."""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import iak
from iak.jobs import cli
from iak.pipeline.base.published_base import open_base
from iak.pipeline.errors import BadLog, Busy, WrongBase
from iak.pipeline.events import PhaseStarted, silent
from iak.pipeline.fresh.state import STATISTICS
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.lock import one_writer
from iak.pipeline.publish.bundle import list_bundles, read_manifest
from iak.pipeline.registry.commits import read_commit, read_head, read_history
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.runs.load import load_nightly
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.pipeline.storage.folder_store import FolderStore
from iak.pipeline.tuning.tune import CohortTuner
from iak.schemas.nightly import NightlySpec
from tests.faults.test_kill import write_catalog
from tests.integration.small_log import MODEL, write_log

pytestmark = [
    pytest.mark.night,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
ROOT = Path(__file__).parents[2]
SIXTH, SEVENTH, EIGHTH = (date(2026, 10, day) for day in (6, 7, 8))
STAGE = {"lr": 1e-3, "max_epochs": 2, "patience": 2, "min_batch": 64, "max_batch": 64}
OPEN_GATE = {
    "z": 0, "min_positives": 5, "min_negatives": 5, "auc_margin": 1, "logloss_margin": 9,
    "calibration_margin": 9,
    "chain": {"alpha": 0.99, "at_once": 1.0, "at_once_margin": 0, "canary_hours": 0},
}  # fmt: skip
"""A gate that lets every gain through, however small."""
TRAINED = {"pooled", "region=a", "region=b"}
"""Region c has too few rows for a kernel of its own."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A log of eight days, and a base that knows the first five."""
    folder = tmp_path_factory.mktemp("nightly")
    write_log(folder / "log", rows=12_000)
    for partition in (folder / "log" / "events").glob("*/*"):
        (partition / "_SUCCESS").touch()
    write_catalog(folder / "catalog.toml")
    iak.pretrain(
        folder / "catalog.toml", folder / "log", run_dir=folder / "base", model=MODEL,
        batch_rows=128, epochs=1, patience=9, shuffle_rows=256,
        placement={"row_wise_from_rows": 100}, workers=1, device="cpu",
    )  # fmt: skip
    return folder


def document(place, folder, *, log=None, gate=None, **changes):
    """What a `nightly.toml` of the small log says."""
    fields = {
        "name": "planted",
        "catalog": str(place / "catalog.toml"),
        "data_root": str(log or place / "log"),
        "base": str(place / "base"),
        "registry": str(folder / "registry"),
        "nights": str(folder / "nights"),
        "workers": {"workers": 1, "device": "cpu"},
        "window": {"days": 2, "valid": 0.2, "gate": 0.2},
        "ready": {"needs_marker": True},
        "scratch_every": 0,
        "finetune": {
            "kernel": {"hidden": 8, "code": 3}, "pooled": STAGE, "domain": STAGE,
            "gate": gate or OPEN_GATE, "cache": {"folder": str(folder / "cache")},
        },
    }  # fmt: skip
    return fields | changes


def spec(place, folder, **changes):
    return NightlySpec.model_validate(document(place, folder, **changes))


def run(asked, night, report=silent):
    return run_night(asked, ProcessLauncher(), NightRequest(night=night), report)


def outcomes(record):
    return {domain.decision.name: domain.outcome for domain in record.domains}


def judged_known(record):
    """Whether the gate judged by rows that the base was trained on; None where nothing is said."""
    said = [n for n in record.notices if n.startswith("the base was trained on rows that")]
    return "the gate judges by" in said[0] if len(said) == 1 else None


def champions(asked):
    """Domain -> bundle that serves it."""
    head = read_head(FolderStore(Path(asked.registry)))
    return {p.name: p.bundle for p in head.pointers.get("champion", {}).values()}


def as_number(day):
    return f"day_{(date.fromisoformat(day) - date(1970, 1, 1)).days}"


@pytest.mark.parametrize(
    ("setting", "folder_of"),
    [
        ('folder_names = "value"', "{region}/{dt}"),
        ('folder_names = "value"\ndate_unit = "d"', "{region}/{number}"),
        ('date_unit = "d"', "region={region}/dt={number}"),
    ],
    ids=["values alone", "numbers alone", "numbers"],
)
def test_a_night_on_folders_of_other_names_decides_as_on_named_dates(
    place, tmp_path, setting, folder_of
):
    named = run(spec(place, tmp_path / "named"), SEVENTH)
    other = tmp_path / "log" / "events"
    for folder in (place / "log" / "events").glob("*/*"):
        region, day = (name.partition("=")[2] for name in folder.parts[-2:])
        to = folder_of.format(region=region, dt=day, number=as_number(day))
        shutil.copytree(folder, other / to)
    text = (place / "catalog.toml").read_text()
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(text.replace("[log]", f"[log]\n{setting}", 1))
    asked = spec(place, tmp_path / "other", log=tmp_path / "log", catalog=str(catalog))
    night = run(asked, SEVENTH)
    assert outcomes(night) == outcomes(named)
    assert night.exit_code == named.exit_code
    # The names of folders are a part of what a day holds.
    assert [d.model_copy(update={"content": ""}) for d in night.days] == [
        d.model_copy(update={"content": ""}) for d in named.days
    ]


def at_promotion(action):
    """A report that acts when the night is tuned and before anything is promoted."""

    def report(event):
        if isinstance(event, PhaseStarted) and event.phase == "promote":
            action()

    return report


def written(folder):
    """Every file of the nights and the registry with its bytes, without locks."""
    files = [p for name in ("nights", "registry") for p in (folder / name).rglob("*")]
    kept = (path for path in files if path.is_file() and not path.name.startswith(".lock"))
    return {path: path.read_bytes() for path in kept}


def test_a_late_partition_holds_its_domain_for_a_night_and_is_taken_up_by_the_next(place, tmp_path):
    shutil.copytree(place / "log", tmp_path / "log")
    late = tmp_path / "log" / "events" / "region=a" / "dt=2026-10-07"
    asked = spec(place, tmp_path, log=tmp_path / "log")
    first = run(asked, SIXTH)
    assert (first.exit_code, outcomes(first)["region=c"]) == (0, "waiting")
    assert {n for n, outcome in outcomes(first).items() if outcome == "promoted"} == TRAINED
    before = champions(asked)

    late.rename(tmp_path / "not-yet")
    second = run(asked, SEVENTH)
    assert (second.exit_code, outcomes(second)["region=a"]) == (4, "held")
    (held,) = (d for d in second.domains if d.decision.name == "region=a")
    assert held.sentence == "region=a/2026-10-07 has no file"
    assert (held.served_by, held.bundle) == ("own", before["region=a"])
    assert outcomes(second)["region=b"] == "promoted"

    (tmp_path / "not-yet").rename(late)
    third = run(asked, EIGHTH)
    assert (third.exit_code, outcomes(third)["region=a"]) == (0, "promoted")
    assert [d.is_late for d in third.days if d.partition == [("region", "a")]] == [True, False]
    by_name = {domain.decision.name: domain.decision for domain in third.domains}
    assert by_name["region=a"].new_rows == by_name["region=a"].window_rows
    assert by_name["region=b"].new_rows < by_name["region=b"].window_rows

    assert first.rows_from_cache == 0 < second.rows_from_cache <= second.rows_tuned
    assert all(window.rows > window.positives > 0 for window in third.windows)

    history = list(read_history(FolderStore(Path(asked.registry))))
    assert [record.registry_after for record in (first, second, third)] == [1, 2, 3]
    assert [{move.folder for move in commit.moves} for commit in history] == [
        TRAINED, TRAINED - {"region=a"}, TRAINED,
    ]  # fmt: skip
    registry = FolderStore(Path(asked.registry))
    pointer = read_head(registry).pointers["champion"]["region=a"]
    lineage = read_entry(registry, pointer.stored).lineage
    assert lineage.parent == before["region=a"]
    assert all(Path(record.page).is_file() for record in (first, second, third))


def test_a_finished_night_run_again_changes_nothing(place, tmp_path):
    asked = spec(place, tmp_path)
    run(asked, SEVENTH)
    before = written(tmp_path)
    with pytest.raises(AlreadyFinished, match="with exit code 0") as told:
        run(asked, SEVENTH)
    assert told.value.exit_code == 6
    assert written(tmp_path) == before


def test_a_night_that_was_killed_before_its_page_has_it_once_it_is_run_again(place, tmp_path):
    asked = spec(place, tmp_path)
    page = Path(run(asked, SEVENTH).page)
    before = written(tmp_path)
    page.unlink()
    (tmp_path / "nights" / "index.html").unlink()
    with pytest.raises(AlreadyFinished):
        run(asked, SEVENTH)
    assert written(tmp_path) == before


def test_a_dry_run_decides_and_writes_nothing(place, tmp_path):
    asked = spec(place, tmp_path)
    record = run_night(asked, ProcessLauncher(), NightRequest(night=SEVENTH, dry_run=True))
    chosen = {d.decision.name for d in record.domains if d.decision.choice == "train"}
    assert chosen == TRAINED
    assert not (tmp_path / "nights").exists()
    assert not (tmp_path / "registry").exists()


def test_the_last_complete_day_is_the_night_where_none_is_asked_for(place, tmp_path):
    record = run_night(spec(place, tmp_path), ProcessLauncher(), NightRequest(dry_run=True))
    assert record.night == EIGHTH


def test_few_new_rows_wait_unless_the_inputs_moved(place, tmp_path):
    few = {"min_new_rows": 10**6, "max_age_days": 99}
    run(spec(place, tmp_path), SIXTH)
    for drift, choice in ((9.0, "wait"), (0.0, "train")):
        asked = spec(place, tmp_path, choice={**few, "drift": drift})
        plan = run_night(asked, ProcessLauncher(), NightRequest(night=SEVENTH, dry_run=True))
        decisions = {d.decision.name: d.decision for d in plan.domains}
        assert decisions["region=a"].choice == choice
        assert decisions["region=a"].drift is not None


def test_a_gate_that_holds_everything_moves_nothing_and_counts_the_night(place, tmp_path):
    asked = spec(place, tmp_path, gate=OPEN_GATE | {"chain": {"at_once": 0}})
    record = run(asked, SEVENTH)
    assert record.exit_code == 4
    assert {name for name, outcome in outcomes(record).items() if outcome == "held"} == TRAINED
    assert champions(asked) == {}
    assert {domain.served_by for domain in record.domains} == {"base"}
    (commit,) = read_history(FolderStore(Path(asked.registry)))
    assert {chain.name for chain in commit.chains.values()} == TRAINED
    assert all(chain.needed and chain.gain is not None for chain in commit.chains.values())
    (held,) = (d for d in record.domains if d.decision.name == "region=a")
    assert (held.evidence_nights, held.evidence_needed) == (0, commit.chains["region=a"].needed)
    assert record.registry_after == 1


def test_a_replay_lets_kernels_through_that_change_little_and_holds_the_others(place, tmp_path):
    first = run(spec(place, tmp_path, shadow={"mean_change": 1.0}), SIXTH)
    assert (first.shadow.against, first.shadow.held, first.shadow.replays) == ("base", {}, 1)
    assert first.shadow.rows > 0
    assert {change.task for change in first.shadow.changes} == {"ctr", "ctcvr", "cvr"}
    before = champions(first)
    assert set(before) == TRAINED

    strict = spec(place, tmp_path, shadow={"mean_change": 0.0, "min_rows": 1})
    second = run(strict, SEVENTH)
    assert second.shadow.against == "live"
    assert set(second.shadow.held) == TRAINED
    assert (second.exit_code, champions(second)) == (4, before)
    assert {name for name, outcome in outcomes(second).items() if outcome == "held"} == TRAINED
    (held,) = (d for d in second.domains if d.decision.name == "region=a")
    assert held.sentence == second.shadow.held["region=a"]
    assert "held by the replay: mean change of" in held.sentence
    assert "Replay before the promotion" in Path(second.page).read_text()
    assert not list(Path(second.page).parent.glob(".shadow-*"))


def test_a_night_that_was_killed_at_its_promotion_is_judged_by_its_first_replay(place, tmp_path):
    def stop():
        raise KeyboardInterrupt

    asked = spec(place, tmp_path, shadow={"mean_change": 1.0})
    with pytest.raises(KeyboardInterrupt):
        run(asked, SIXTH, at_promotion(stop))
    (before,) = read_nights(asked.nights).records
    events = []
    record = run(asked, SIXTH, events.append)
    assert record.shadow == before.shadow is not None
    phases = {event.phase for event in events if isinstance(event, PhaseStarted)}
    assert "promote" in phases
    assert "shadow" not in phases


def test_after_the_deadline_what_is_ready_is_promoted_and_the_rest_is_held(place, tmp_path):
    asked = spec(place, tmp_path, schedule={"deadline": "05:30", "time_zone": "Asia/Shanghai"})
    long_ago = NightRequest(night=SEVENTH, clock=lambda: datetime(2026, 10, 8, 1, tzinfo=UTC))
    record = run_night(asked, ProcessLauncher(), long_ago)
    assert record.deadline == datetime(2026, 10, 8, 21, 30, tzinfo=UTC)
    assert outcomes(record) == {
        "pooled": "promoted", "region=a": "held", "region=b": "held", "region=c": "waiting",
    }  # fmt: skip
    (held,) = (d for d in record.domains if d.decision.name == "region=a")
    assert held.sentence == "the deadline of 05:30 came before its turn"
    assert (held.served_by, record.exit_code) == ("pooled", 4)


def test_every_nth_night_kernels_from_scratch_are_compared_with_the_chain(place, tmp_path):
    asked = spec(place, tmp_path, scratch_every=1)
    first, second = run(asked, SIXTH), run(asked, SEVENTH)
    assert (first.is_scratch_night, second.is_scratch_night) == (False, True)
    compared = {d.decision.name for d in second.domains if d.scratch_gain is not None}
    assert compared == TRAINED
    assert second.timings_s["scratch"] > 0
    scratch = read_record(Path(second.run_dir).parent / "scratch")
    assert scratch.result["live"] == []
    served = {d.decision.name: d.bundle for d in second.domains}
    assert champions(asked) == {name: served[name] for name in TRAINED}


def test_a_base_that_is_due_is_refreshed_and_kernels_come_over_through_the_gate(place, tmp_path):
    asked = spec(place, tmp_path, refresh={"dates": [str(SEVENTH)], "from_rates": 0.3})
    first, second, third = (run(asked, night) for night in (SIXTH, SEVENTH, EIGHTH))
    assert (first.refresh, first.base_age_days) == (None, 1)
    assert {line.name for line in first.drift} >= {"price", "ctr", "cvr"}
    assert first.unseen["item_id"] >= 0
    assert second.refresh.reason == "refresh.dates names 2026-10-07"
    assert second.refresh.published
    assert second.base_fingerprint == second.refresh.fingerprint != first.base_fingerprint
    assert second.base_age_days == 0
    assert set(second.refresh.carried) == TRAINED
    assert second.refresh.dropped == []
    assert [judged_known(record) for record in (first, second, third)] == [True, False, False]
    assert any("1 of the 2 days of ctr, 2026-10-05" in notice for notice in first.notices)
    assert any("2 of the 2 days of ctr" in notice for notice in second.notices)
    (known,) = (n for n in first.notices if "judges by" in n)
    assert known in html.unescape(Path(first.page).read_text())
    tuned = read_record(Path(second.run_dir))
    assert tuned.result["live"] == sorted(TRAINED)
    assert tuned.spec["live_base"] == str(place / "base")
    fresh = open_base(Path(second.refresh.run_dir)).manifest
    assert fresh.parent == first.base_fingerprint
    reasons = {d.decision.name: d.decision.reason for d in second.domains}
    assert "no night has tuned it on this base" in reasons["region=a"]
    assert third.base == second.refresh.run_dir
    assert read_record(Path(third.run_dir)).result["live"] == sorted(TRAINED)
    store = FolderStore(Path(asked.registry))
    head, before = read_head(store), read_commit(store, 1)
    lineage = read_entry(
        store, read_commit(store, 2).pointers["champion"]["region=a"].stored
    ).lineage
    assert lineage.parent == before.pointers["champion"]["region=a"].bundle
    assert {p.base_fingerprint for p in head.pointers["champion"].values()} == {fresh.fingerprint}


def test_kernels_move_to_no_base_but_the_child_of_theirs(place, tmp_path):
    asked = document(place, tmp_path)["finetune"] | {"kernel": {"hidden": 8, "code": 3}}
    with pytest.raises(WrongBase, match="Kernels move from a parent to its child alone"):
        iak.tune_night(
            place / "catalog.toml", place / "log", base=place / "base", workers=1, device="cpu",
            run_dir=tmp_path / "run", live=tmp_path, live_base=place / "base", **asked,
        )  # fmt: skip


def test_kernels_of_a_log_that_changed_after_the_plan_are_not_promoted(place, tmp_path):
    shutil.copytree(place / "log", tmp_path / "log")
    asked = spec(place, tmp_path, log=tmp_path / "log")
    path = next((tmp_path / "log" / "events" / "region=b" / "dt=2026-10-07").glob("*.parquet"))
    whole = path.read_bytes()

    def restate(event):
        if isinstance(event, PhaseStarted) and event.phase == "shift":
            rows = pq.read_table(path, partitioning=None)
            prices = rows.column("price").combine_chunks()
            index = rows.schema.get_field_index("price")
            changed = rows.set_column(index, rows.schema.field(index), prices[::-1])
            pq.write_table(changed, path)

    with pytest.raises(BadLog, match="changed while the night ran: region=b/2026-10-07 below"):
        run(asked, SEVENTH, restate)
    assert not (tmp_path / "registry").exists()
    path.write_bytes(whole)
    record = run(asked, SEVENTH)
    assert (record.exit_code, record.attempts) == (0, 2)
    assert set(champions(asked)) == TRAINED


def test_a_damaged_bundle_fails_its_domain_alone(place, tmp_path):
    asked = spec(place, tmp_path)

    def damage():
        (path,) = (tmp_path / "nights").glob("*/tune/bundles/region=a/kernel.safetensors")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    record = run(asked, SEVENTH, at_promotion(damage))
    assert record.exit_code == 5
    assert outcomes(record)["region=a"] == "failed"
    assert set(champions(asked)) == TRAINED - {"region=a"}
    (failed,) = (d for d in record.domains if d.outcome == "failed")
    assert (failed.served_by, "cannot be read" in failed.sentence) == ("pooled", True)


def test_a_kernel_that_diverges_fails_its_domain_alone(place, tmp_path, monkeypatch):
    asked = spec(place, tmp_path)
    run(asked, SIXTH)
    before = champions(asked)
    optimizer, broken = CohortTuner.new_optimizer, {"region=a"}

    def wild(tuner):
        """A rate that no setting allows, for one domain alone."""
        adam = optimizer(tuner)
        adam.lr_K[[name in broken for name in tuner.bank.names]] = 1e30
        return adam

    monkeypatch.setattr(CohortTuner, "new_optimizer", wild)
    record = run(asked, SEVENTH)
    assert (record.status, record.exit_code) == ("finished", 5)
    assert outcomes(record)["region=a"] == "failed"
    assert {n for n, outcome in outcomes(record).items() if outcome == "promoted"} == TRAINED - {
        "region=a"
    }
    after = champions(asked)
    assert {n for n in TRAINED if after[n] == before[n]} == {"region=a"}
    (failed,) = (d for d in record.domains if d.outcome == "failed")
    assert (failed.served_by, failed.bundle, failed.candidate) == ("own", before["region=a"], None)
    assert failed.sentence.startswith("the kernel of region=a diverged: ")
    assert failed.sentence in html.unescape(Path(record.page).read_text())
    assert read_record(Path(record.run_dir)).exit_code == 5
    broken.clear()
    broken.add("pooled")
    record = run(asked, EIGHTH)
    assert (record.exit_code, outcomes(record)["pooled"]) == (5, "failed")
    assert {outcomes(record)[name] for name in ("region=a", "region=b")} == {"promoted"}
    assert any(
        "started from the kernel that it started from" in notice for notice in record.notices
    )
    assert champions(asked)["pooled"] == after["pooled"]


def test_a_pointer_that_somebody_moved_meanwhile_is_left_to_him(place, tmp_path):
    asked = spec(place, tmp_path)
    run(asked, SIXTH)
    first = champions(asked)
    run(asked, SEVENTH)
    root = FolderStore(Path(asked.registry))
    record = run(asked, EIGHTH, at_promotion(lambda: roll_back(root, "champion", ["region=b"])))
    assert (record.exit_code, outcomes(record)["region=b"]) == (4, "held")
    assert champions(asked)["region=b"] == first["region=b"]
    assert outcomes(record)["region=a"] == "promoted"


def test_two_nights_at_once_never_both_write(place, tmp_path):
    asked = spec(place, tmp_path, schedule={"if_busy": "leave"})
    with one_writer(tmp_path / "nights", waits=False), pytest.raises(Busy):
        run(asked, SEVENTH)
    assert not read_nights(tmp_path / "nights").records
    waiting = asked.model_copy(
        update={"schedule": asked.schedule.model_copy(update={"if_busy": "wait"})}
    )
    assert run(waiting, SEVENTH).exit_code == 0


KILLED = """
import json, os, signal, sys
from datetime import UTC, date, datetime
from iak.pipeline.events import PhaseEnded, PhaseStarted
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.load import load_nightly
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.schemas.nightly import NightlySpec

def report(event):
    kind = PhaseStarted if sys.argv[2] == "begins" else PhaseEnded
    if isinstance(event, kind) and event.phase == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

asked = NightlySpec.model_validate(json.loads(sys.argv[1]))
run_night(asked, ProcessLauncher(), NightRequest(night=date(2026, 10, 7)), report)
"""


@pytest.fixture(scope="module")
def undisturbed(place, tmp_path_factory):
    asked = spec(place, tmp_path_factory.mktemp("undisturbed"))
    run(asked, SEVENTH)
    return champions(asked)


@pytest.mark.faults
@pytest.mark.parametrize("when", [("begins", "tune"), ("begins", "promote"), ("ends", "promote")])
def test_a_night_that_was_killed_goes_on_to_the_same_pointers(place, tmp_path, undisturbed, when):
    fields = document(place, tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, json.dumps(fields), *when],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "infra/package"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (left,) = read_nights(tmp_path / "nights").records
    assert left.status == "running"
    asked = spec(place, tmp_path)
    record = run(asked, SEVENTH)
    assert (record.id, record.attempts, record.exit_code) == (left.id, 2, 0)
    assert champions(asked) == undisturbed
    assert len(list(read_history(FolderStore(Path(asked.registry))))) == 1


def test_the_verbs_write_a_file_look_at_it_and_show_what_it_came_to(
    place, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    base = [f"catalog={place / 'catalog.toml'}", f"base={place / 'base'}"]
    assert cli.run(["nightly", "init", *base, "out=nightly.toml"]) == 0
    assert cli.run(["nightly", "init", *base, "out=nightly.toml"]) == 2
    assert cli.run(["nightly", "check", "nightly.toml"]) == 0
    assert cli.run(["nightly", "status", "nightly.toml"]) == 0
    assert "no night has run" in capsys.readouterr().out
    written_file = load_nightly(Path("nightly.toml"))
    run(written_file, EIGHTH)
    assert cli.run(["nightly", "status", "nightly.toml"]) == 0
    shown = capsys.readouterr().out
    assert "2026-10-08" in shown
    assert "Served by: " in shown
    (tmp_path / "registry" / "commits" / "0000000001.json").write_text("{}")
    assert cli.run(["nightly", "check", "nightly.toml"]) == 2
    assert "registry" in capsys.readouterr().out


def test_a_catalogue_that_gets_statistics_goes_on_from_the_kernels_that_serve(place, tmp_path):
    fresh = tmp_path / "fresh.toml"
    text = (place / "catalog.toml").read_text()
    fresh.write_text(f'{text}\n[[fresh]]\nkeys = ["category"]\nwindows = ["P2D", "all"]\n')
    run(spec(place, tmp_path), SIXTH)
    asked = spec(place, tmp_path, catalog=str(fresh))
    states = []
    for night in (SEVENTH, EIGHTH):
        before = champions(asked)
        record = run(asked, night)
        assert (record.exit_code, set(champions(asked))) == (0, set(before))
        bundles = [*(tmp_path / "nights").glob(f"{night}-*/tune/bundles/*/manifest.json")]
        named = [json.loads(path.read_text())["statistics"]["state"] for path in bundles]
        assert len(set(named)) == 1
        states += named[:1]
    assert states[0] != states[1]  # each night counts one day more
    resolve(
        FolderStore(Path(asked.registry)), "champion", tmp_path / "served",
        base_fingerprint=open_base(place / "base").manifest.fingerprint,
    )  # fmt: skip
    manifests = [read_manifest(bundle) for bundle in list_bundles(tmp_path / "served")]
    assert {manifest.statistics.state for manifest in manifests} <= set(states)
    assert all((tmp_path / "served" / m.name / STATISTICS).is_file() for m in manifests)
