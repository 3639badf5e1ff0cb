"""A module that answers otherwise here is refused with its first rows and its first layer."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import torch as safetensors_torch

from iak.pipeline.data.batch import FULL_ROWS
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.compare_scores import with_scores
from iak.schemas.job import AdoptSpec
from tests.dlrm_log import dlrm_catalog, write_dlrm_log
from tests.plain_dlrm import HIDDEN

OUTPUTS = {"out_bottom": "bottom", "out_hidden": "top.0"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dlrm_log(tmp_path_factory.mktemp("dlrm"), rows=150)


def adopt(root, run_dir, *, change=None, **settings):
    """Adopt the model, with one of its weights changed."""
    weights = safetensors_torch.load_file(root / "model.safetensors")
    if change:
        weights[change] = weights[change] + 0.05
    path = run_dir.parent / "weights.safetensors"
    safetensors_torch.save_file(weights, path)
    asked = {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": run_dir, "weights": path}
    asked |= {"scores": {"ctr": "score"}, "outputs": OUTPUTS}
    return adopt_base(AdoptSpec.model_validate(asked | settings), dlrm_catalog())


def test_scores_are_read_beside_the_features():
    catalog = dlrm_catalog()
    reading = with_scores(catalog, {"ctr": "score"}, h="out_hidden", units=HIDDEN)
    assert set(reading.columns) == {*catalog.columns, "score", "out_hidden"}
    assert reading.features == catalog.features
    assert with_scores(catalog, {}) is catalog


def test_a_module_that_answers_as_it_did_is_adopted(root, tmp_path):
    adopted = adopt(root, tmp_path / "run")
    assert [task.task for task in adopted.adoption.quality.tasks] == ["ctr"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("bottom.0.bias", "first layer whose output differs is bottom: .* No logged layer lies be"),
        ("users.weight", r"differs is top\.0: .* in out_hidden\. Layers bottom agree before it"),
        ("top.0.bias", r"top\.0: 16 of its 16 units, .* Layers bottom agree before it"),
        ("top.2.bias", r"In row 0 layers bottom, top\.0 agree; the module differs behind them"),
    ],
)
def test_the_first_layer_that_differs_is_named(root, tmp_path, change, says):
    with pytest.raises(BadLog, match=rf"(?s)row 0 of the split, ctr: .*{says}"):
        adopt(root, tmp_path / "run", change=change)
    assert not (tmp_path / "run/base").exists()


def test_the_row_is_the_first_one_that_differs(root, tmp_path):
    two_days = {
        "tune": {"days": [0, 0], "slice": [0.0, 0.5]},
        "gate": {"days": [0, 0], "slice": [0.5, 1.0]},
        "valid": {"days": [1, 2]},
    }
    files = sorted(root.glob("events/*/dt=2026-10-0[23]/*.parquet"))
    users = [user for path in files for user in pq.ParquetFile(path).read()["user"].to_pylist()]
    first, rare = max((users.index(user), user) for user in set(users))
    assert first > FULL_ROWS  # it lies in a later batch than the first one
    weights = safetensors_torch.load_file(root / "model.safetensors")
    weights["users.weight"][rare] += 0.5
    path = tmp_path / "moved.safetensors"
    safetensors_torch.save_file(weights, path)
    asked = {"catalog": "dlrm.toml", "data_root": str(root), "run_dir": tmp_path / "run"}
    asked |= {"weights": path, "scores": {"ctr": "score"}, "outputs": OUTPUTS}
    with pytest.raises(BadLog) as error:
        adopt_base(AdoptSpec.model_validate(asked), dlrm_catalog(splits=two_days))
    assert f"\n  row {first} of the split, ctr: " in str(error.value)
    assert f"\nIn row {first} the first layer whose output differs is top.0" in str(error.value)


def test_without_logged_outputs_the_layers_to_log_are_named(root, tmp_path):
    says = r"outputs\.COLUMN=LAYER.* computes bottom\.0, bottom\.1, users, items, top\.0"
    with pytest.raises(BadLog, match=f"(?s){says}"):
        adopt(root, tmp_path / "run", change="top.0.bias", outputs={})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"outputs": {"out_hidden": "top.9"}}, r"unknown layers \['top\.9'\]; the module has"),
        ({"scores": {}}, "scores= names no score. Add scores.TASK=COLUMN"),
        ({"outputs": {"out_hiden": "top.0"}}, "lack out_hiden"),
        ({"outputs": {"score": "top.0"}}, r"outputs and scores both name columns \['score'\]"),
        ({"outputs": {"click": "top.0"}}, "click"),
    ],
    ids=["layer", "no scores", "column", "twice", "type"],
)
def test_outputs_that_cannot_be_compared_are_refused(root, tmp_path, settings, says):
    with pytest.raises((BadLog, BadRequest), match=f"(?s){says}"):
        adopt(root, tmp_path / "run", **settings)


def test_lists_of_another_length_are_refused(root, tmp_path):
    for path in root.glob("events/*/*/*.parquet"):
        table = pq.ParquetFile(path).read()
        short = pa.array([[0.0, 0.0]] * len(table), pa.list_(pa.float32(), 2))
        target = tmp_path / path.relative_to(root)
        target.parent.mkdir(parents=True)
        pq.write_table(table.append_column("out_short", short), target)
    safetensors_torch.save_file(
        safetensors_torch.load_file(root / "model.safetensors"), tmp_path / "model.safetensors"
    )
    says = re.escape(f"out_short: lists of 2 numbers, base.units says {HIDDEN}")
    with pytest.raises(BadLog, match=says):
        adopt(tmp_path, tmp_path / "run", outputs={"out_short": "top.0"})
