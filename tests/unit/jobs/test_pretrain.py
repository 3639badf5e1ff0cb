"""What `iak pretrain` says and answers, its workers played by this process."""

import re

import pytest

from iak.jobs import pretrain as job
from iak.jobs.local_launcher import LocalLauncher
from iak.pipeline.base import defaults, published_base
from iak.pipeline.errors import BadRequest
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.pretrain import advice
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.schemas.job import PretrainSpec
from iak.schemas.training import TaskQuality
from tests.builders import training_result, write_log

# torchrec passes it to torch, which deprecates it in 2.13; workers of their own do not mind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]

CATALOG = """
[log]
name = "small"
partition_keys = ["region", "dt"]
date_key = "dt"
row_id = "event_id"
[domain]
keys = ["region"]
[[features]]
kind = "categorical"
name = "user_id"
[[features]]
kind = "numeric"
name = "price"
[[tasks]]
label = "{label}"
kind = "{kind}"
[splits.pretrain]
slice = [0.0, 0.8]
[splits.pretrain_valid]
slice = [0.8, 1.0]
"""
MODEL = {"width": 4, "mlp": [8], "cross_layers": 1, "experts": 2, "expert_width": 4}


def here(_launcher, launch, report):
    """Stand for `LocalLauncher.run`: the only worker is this process."""
    return ProcessLauncher().run(launch, report)


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalLauncher, "run", here)
    write_log(
        tmp_path / "events", [("ningbo", "2026-10-01", [150, 150]), ("wuxi", "2026-10-02", [300])]
    )

    def made(run, label="click", kind="click", **changes):
        catalog = tmp_path / f"{label}-{kind}.toml"
        catalog.write_text(CATALOG.format(label=label, kind=kind))
        fields = {
            "catalog": catalog, "data_root": str(tmp_path), "run_dir": tmp_path / run,
            "model": MODEL, "workers": 1,
        }  # fmt: skip
        return PretrainSpec.model_validate(fields | changes)

    return made


def test_a_child_that_is_not_better_is_not_published_and_the_run_says_so(spec, tmp_path, capsys):
    assert job.main(spec("parent", epochs=3)) == 0
    assert (tmp_path / "parent" / "base" / "optimizer").is_dir()
    worse = spec(
        "child", **{"from": tmp_path / "parent", "optim": {"table_lr": 50.0, "dense_lr": 3.0}}
    )
    capsys.readouterr()
    assert job.main(worse) == 4
    told = " ".join(capsys.readouterr().out.split())
    record = read_record(tmp_path / "child")
    assert (record.status, record.exit_code) == ("finished", 4)
    for loss in ("parent_valid_loss", "best_child_loss"):
        assert f"{record.result[loss]:.5f}" in told
    assert not (tmp_path / "child" / "base").exists()
    assert not (tmp_path / "child" / ".best").exists()
    with pytest.raises(AlreadyFinished, match=r"No base was published.*the untouched parent"):
        job.main(worse)
    with pytest.raises(BadRequest, match="the untouched parent"):
        published_base.open_base(tmp_path / "child")


def test_a_log_with_a_conversion_alone_is_a_plain_task_named_cvr(spec, tmp_path):
    assert job.main(spec("orders", label="order", kind="conversion", epochs=2)) == 0
    result = read_record(tmp_path / "orders").result
    assert [task["task"] for task in result["best_tasks"]] == ["cvr"]
    assert {entry["task"] for entry in result["precisions"]} == {"cvr"}
    assert set(result["labelled"]) == {"cvr"}


def test_rows_trained_on_are_counted_by_label(spec, tmp_path):
    assert job.main(spec("clicks", epochs=1)) == 0
    result = read_record(tmp_path / "clicks").result
    assert 0 < result["labelled"]["ctr"] < result["rows"], "a tenth of the labels is null"
    assert result["settings"]["used"]["epochs"] == 1
    assert "batch_rows" in result["settings"]["followed"]


def test_a_weight_for_a_task_that_is_not_there_is_refused(spec):
    with pytest.raises(BadRequest, match=r"unknown tasks \['cvr'\]; there are \['ctr'\]"):
        job.main(spec("weights", task_weights={"cvr": 0.5}))


def result_with(calibration=1.0, positives=10_000, improving=False, steps=1_000):
    quality = TaskQuality(task="cvr", rows=10**6, positives=positives, calibration=calibration)
    return training_result(
        best_tasks=(quality,), improving_at_the_end=improving, best_step=steps, steps=steps
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"calibration": 1.09}, None),
        ({"calibration": 1.3, "positives": 30}, None),
        ({"calibration": None, "positives": 0}, None),
        ({"calibration": 5.8, "steps": 22}, "predicted/observed = 5.80.*batch_rows="),
        ({"calibration": 0.8}, "predicted/observed = 0.80.*lower optim.table_lr="),
        (
            {"improving": True},
            r"Still improving at the last validation \(step 1000\): raise epochs=",
        ),
    ],
)
def test_what_to_set_next_time_is_said_when_something_is_off(spec, changes, told):
    recipe = defaults.recipe(spec("any"), rows=10_000, continues=False, has_state=False)
    lines = advice(result_with(**changes), recipe, recipe.optim.table_lr)
    if told is None:
        assert lines == []
    else:
        (line,) = lines
        assert re.search(told, line)
