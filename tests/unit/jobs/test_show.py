"""`iak show`: what lies in a folder, told as far as its documents say it."""

import json
import shutil

import pytest

from iak.jobs import cli, show
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.runs.record import run_record
from iak.schemas.base import ResultSpec
from iak.schemas.job import PretrainSpec
from tests.builders import run_inputs
from tests.unit.publish.test_bundle import write

BASE = {
    "kind": "iak-base", "format": 1, "fingerprint": "f" * 64, "parent": "a" * 64,
    "tables": [{"name": "item_id", "rows": 4_000, "width": 16, "features": ["item_id", "hist"]}],
    "files": [{"path": "t", "bytes": 256_000, "table": "item_id"}, {"path": "d", "bytes": 10}],
    "catalog": {"log": {"name": "shop"}, "tasks": [{"label": "label_click"}]},
    "snapshot": {"uri": "/data/shop", "rows": 9, "fingerprint": "c" * 64, "as_of": "2026-10-12",
                 "splits": {"pretrain": {"rows": 7_000, "first": "2026-10-01",
                                         "last": "2026-10-09"}}},
    "versions": {"torch": "2.13.0"}, "metrics": [{"name": "valid_loss", "value": 0.51}],
    "precisions": [
        {"precision": "fp32", "task": "ctr", "rows": 500, "auc": 0.75},
        {"precision": "int8", "task": "ctr", "rows": 500, "auc": 0.7493},
    ],
    "created_at": "2026-10-12T03:00:00Z",
}  # fmt: skip


class Rows(ResultSpec):
    rows: int


def bundle(region, *, publish, **verdict):
    return {
        "kind": "iak-bundle", "format": 1, "level": ["region"], "domain": {"region": region},
        "base_fingerprint": "f" * 64, "data_window": {"tuning_rows": 812},
        "verdict": {"publish": publish, "reason": "because", "gain": 0.003, "rows": 77} | verdict,
        "versions": {"torch": "2.13.0"}, "created_at": "2026-10-12T04:00:00Z", "metrics": [],
    }  # fmt: skip


RECORD = {
    "verb": "finetune", "status": "finished", "exit_code": 4, "attempts": 2, "spec": {"base": "R1"},
    "started_at": "2026-10-12T03:00:00Z", "ended_at": "2026-10-12T04:00:00Z", "commit": "abc+",
    "machine": {"processor": "x", "cores": 2, "memory_gib": 24}, "versions": {"ray": "2.60.0"},
    "snapshot": {"uri": "/data/shop", "rows": 9, "fingerprint": "c" * 64, "files": [{}, {}]},
    "result": {"digest": "5d09", "kernels": [
        {"domain": "region=north", "tuning_rows": 812, "published": True, "reason": "gain",
         "gate": {"rows": 77, "gain": 0.003}}]},
}  # fmt: skip
TASKS = [
    {"task": "ctr", "positives": 120, "judged": True, "holds": False, "auc": {"delta": 0.004}},
    {"task": "cvr", "positives": 50, "judged": True, "holds": True, "reason": "AUC fell"},
    {"task": "ctcvr", "positives": 3, "judged": False, "holds": False, "reason": "3 positives"},
]


NO_INDEX = 2
"""The exit code where bundles are shown and no index names them."""


def put(folder, name, document):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(document))


def shown(place, capsys, code=0):
    assert cli.run(["show", str(place)]) == code
    return " ".join(capsys.readouterr().out.split())


def test_a_base_shows_its_parent_tables_sizes_window_and_precisions(tmp_path, capsys):
    put(tmp_path / "base", "manifest.json", BASE)
    text = shown(tmp_path, capsys)
    for told in ("a" * 64, "4,000", "250.0 KiB", "2026-10-01 to 2026-10-09", "-0.00070", "shop"):
        assert told in text


MEASURED = {"task": "cvr", "rows": 61, "positives": 9, "log_loss": 0.61234, "auc": 0.5615,
            "calibration": 1.059, "reason": ""}  # fmt: skip


def test_a_base_shows_each_task_and_the_unseen_share_of_each_table(tmp_path, capsys):
    unseen = [{"name": "unseen_share", "table": t, "value": v} for t, v in (("a", 0.1), ("b", 0.2))]
    put(tmp_path, "manifest.json", BASE | {"metrics": [*BASE["metrics"], MEASURED, *unseen]})
    text = shown(tmp_path, capsys)
    for told in ("unseen_share of a: 0.1", "unseen_share of b: 0.2", "0.61234", "0.5615", "1.059"):
        assert told in text


def test_a_run_that_published_no_base_shows_its_parent_s_tasks(tmp_path, capsys):
    result = {"is_parent_best": True, "best_tasks": [MEASURED]}
    put(tmp_path, "record.json", RECORD | {"verb": "pretrain", "exit_code": 4, "result": result})
    text = shown(tmp_path, capsys)
    assert "on validation rows, the untouched parent" in text
    assert "0.61234" in text


def test_a_run_that_did_not_end_has_no_exit_code(tmp_path, capsys):
    put(tmp_path, "record.json", RECORD | {"status": "running", "exit_code": None})
    assert "exit code: - started" in shown(tmp_path, capsys)


def test_brackets_in_what_a_document_says_are_no_style(tmp_path, capsys):
    put(tmp_path, "record.json", RECORD | {"error": "[enforce fail at x.cc:1] no room"})
    assert "[enforce fail at x.cc:1]" in shown(tmp_path, capsys)


def test_bundles_show_every_domain_with_its_verdict(tmp_path, capsys):
    put(tmp_path / "north", "manifest.json", bundle("north", publish=True))
    put(tmp_path / "south", "manifest.json", bundle("south", publish=False, tasks=TASKS))
    put(tmp_path / ".half", "manifest.json", bundle("half", publish=True))
    text = shown(tmp_path, capsys, NO_INDEX)
    assert "2, 1 of them published" in text
    assert "region=half" not in text
    for told in ("region=north", "published: because", "held: because", "812", "HOLDS", "AUC fell"):
        assert told in text
    assert "ctcvr: not judged, 3 positives" in " ".join(text.replace("│", " ").split())


def test_a_run_shows_its_record_and_the_bundles_below_it(tmp_path, capsys):
    put(tmp_path, "record.json", RECORD)
    put(tmp_path / "bundles" / "north", "manifest.json", bundle("north", publish=True))
    text = shown(tmp_path, capsys, NO_INDEX)
    for told in ("iak finetune, finished", "exit code: 4", "abc+", "2.60.0", "1 of 1 published"):
        assert told in text


def test_a_run_shows_what_its_kernels_borrow_and_cost_outside_where_they_do(tmp_path, capsys):
    put(tmp_path / "without", "record.json", RECORD)
    text = shown(tmp_path / "without", capsys)
    assert "own change" not in text
    assert "loss outside" not in text
    (kernel,) = RECORD["result"]["kernels"]
    outside = {"rows": 301, "change": 0.01234, "error": 0.002}
    kernels = [kernel | {"own_share": 0.37, "outside": outside}, kernel | {"domain": "region=b"}]
    put(tmp_path / "with", "record.json", RECORD | {"result": {"kernels": kernels}})
    text = shown(tmp_path / "with", capsys)
    for told in ("own change", "0.37", "loss outside", "+0.01234"):
        assert told in text


def test_a_run_shows_what_it_read_and_left_in_short(tmp_path, capsys):
    outputs = {
        f"{n}.json": {"kind": "file", "sha256": "d" * 64, "bytes": 2048 + n} for n in range(9)
    }
    inputs = {"catalogue": "a" * 64, "live bundles": "b" * 64}
    put(tmp_path, "record.json", RECORD | {"inputs": inputs, "outputs": outputs})
    text = shown(tmp_path, capsys)
    assert f"inputs: catalogue: {'a' * 12} live bundles: {'b' * 12} " in text
    assert f"outputs: 0.json: 2.0 KiB, {'d' * 12} 1.json" in text
    assert "8.json" not in text
    assert "more: 1" in text


def test_a_run_of_an_older_version_shows_no_inputs(tmp_path, capsys):
    put(tmp_path, "record.json", RECORD)
    text = shown(tmp_path, capsys)
    assert "inputs: unknown" in text
    assert "outputs" not in text


def test_bundles_are_shown_and_then_compared_with_their_index(tmp_path, capsys):
    for region in ("north", "south"):
        write(tmp_path / "bundles", domain={"region": region})
    assert cli.run(["show", str(tmp_path)]) == NO_INDEX
    assert "a night that was killed before it was published" in capsys.readouterr().err
    write_index(tmp_path / "bundles")
    assert "2, 2 of them published" in shown(tmp_path, capsys)
    shutil.rmtree(tmp_path / "bundles" / "region=south")
    assert cli.run(["show", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "region=north" in told.out
    assert "lacks bundles that its index.json names: region=south" in told.err


def test_an_evaluation_shows_its_metrics(tmp_path, capsys):
    put(tmp_path, "record.json", RECORD | {"verb": "evaluate", "result": {"split": "test"}})
    metric = {"method": "base", "task": "ctr", "domain": "pooled", "rows": 9, "positives": 4,
              "auc": 0.7312, "logloss": 0.5, "calibration": 1.01}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps([metric]))
    assert "0.7312" in shown(tmp_path, capsys)


def test_a_document_of_unknown_fields_is_shown_as_far_as_it_goes(tmp_path, capsys):
    put(tmp_path / "x", "manifest.json", {"kind": "iak-bundle", "format": 99, "tasks": "later"})
    assert "1, 0 of them published" in shown(tmp_path, capsys, NO_INDEX)


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_another_folder_is_refused_by_what_was_looked_for(name, tmp_path, capsys):
    put(tmp_path, name, {"kind": "something else"})
    assert cli.run(["show", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "record.json" in told
    assert name in told


def test_json_holds_all_that_was_read(tmp_path):
    put(tmp_path / "bundles" / "north", "manifest.json", bundle("north", publish=True))
    out = tmp_path / "out.json"
    assert cli.run(["show", str(tmp_path), f"json={out}"]) == NO_INDEX
    assert json.loads(out.read_text())["bundles"][0]["domain"] == {"region": "north"}


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 B"), (1_023, "1,023 B"), (1_024, "1.0 KiB"), (5 * 2**40, "5.0 TiB")]
)
def test_bytes_are_said_as_they_are_read(size, told):
    assert show.bytes_text(size) == told


@pytest.mark.parametrize(("ends_in_number", "line"), [(True, "│  1.0 │"), (False, "│ 1.0  │")])
def test_the_last_column_of_a_table_stands_right_where_it_is_a_number(ends_in_number, line, capsys):
    show.show_table("t", ("a", "b"), [("x", "1.0"), ("y", "12.0")], ends_in_number=ends_in_number)
    assert line in capsys.readouterr().out


def test_an_edited_record_is_not_shown_as_if_it_were_true(tmp_path, capsys):
    run_dir = tmp_path / "run"
    spec = PretrainSpec(catalog="small", data_root="/data", run_dir=run_dir)
    with run_record("pretrain", spec, run_dir) as record:
        record.settle_inputs(run_inputs())
        record.result = Rows(rows=1000)
    assert "pretrain, finished" in shown(run_dir, capsys)
    path = run_dir / "record.json"
    path.write_text(path.read_text().replace("1000", "2000"))
    assert cli.run(["show", str(run_dir)]) == 1
    assert f"{path} was changed after it was written" in capsys.readouterr().err
