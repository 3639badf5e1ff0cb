"""`iak adopt`: columns that are a base are published as one, others are refused with a reason."""

import json
import math

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors import torch as safetensors_torch

from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.errors import BadLog, BadRequest, PipelineError
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.runs.pretrain import pretrain_base
from iak.pipeline.runs.record import AlreadyFinished
from iak.pipeline.stats.auc import auc
from iak.schemas.job import AdoptSpec, FrozenTablesSpec, PretrainSpec
from iak.schemas.plan import ResolvedPlacement
from tests.builders import small_catalog
from tests.given_log import (
    given_catalog,
    given_document,
    given_rows,
    towers_catalog,
    towers_weights,
    write_given_log,
)
from tests.unit.base.test_published_base import ALONE


def adopt(root, catalog=None, **settings):
    asked = {"catalog": "given.toml", "data_root": str(root), "run_dir": root / "run"} | settings
    return adopt_base(AdoptSpec.model_validate(asked), catalog or given_catalog())


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_given_log(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def adopted(log):
    return adopt(log, run_dir=log / "once")


def test_the_base_is_its_columns(adopted):
    base = published_base.open_base(adopted.run_dir)
    assert base.manifest.fingerprint == adopted.manifest.fingerprint
    assert base.catalog.base == given_catalog().base
    assert (base.manifest.tables, base.manifest.files) == ([], [])
    assert "columns" in base.manifest.digest


def test_the_logits_are_measured_on_rows_that_no_kernel_is_tuned_on(adopted):
    tasks = {task.task: task for task in adopted.adoption.quality.tasks}
    assert set(tasks) == {"ctr", "cvr", "ctcvr"}
    by_domain = {d.domain: d.tasks[0] for d in adopted.adoption.quality.domains}
    assert set(by_domain) == {"region=a", "region=b"}
    assert sum(task.rows for task in by_domain.values()) == tasks["ctr"].rows
    record = json.loads((adopted.run_dir / "record.json").read_text())
    assert record["snapshot"]["splits"]["valid"]["rows"] == tasks["ctr"].rows
    assert 0.5 < tasks["ctr"].auc < 1
    assert tasks["cvr"].calibration == pytest.approx(1, abs=0.15)  # its logit is the true one


def test_the_auc_of_a_domain_is_that_of_its_rows(tmp_path):
    everything = given_document()["splits"] | {
        "valid": {"days": [1, 1]}, "test": {"days": [0, 0], "slice": [0.0, 0.01]},
        "tune": {"days": [0, 0], "slice": [0.01, 0.5]},
        "gate": {"days": [0, 0], "slice": [0.5, 1.0]},
    }  # fmt: skip
    result = adopt(write_given_log(tmp_path), given_catalog(splits=everything))
    rows = given_rows(600, "a", first=600)
    expected = auc(rows.column("click").to_numpy(), rows.column("logit_ctr").to_numpy())
    (domain,) = [d for d in result.adoption.quality.domains if d.domain == "region=a"]
    assert domain.tasks[0].auc == pytest.approx(expected, abs=1e-6)


def test_the_same_columns_are_the_same_base_and_another_version_is_another(log, adopted):
    again = adopt(log, run_dir=log / "again", max_unusable_share=0.0)
    assert again.manifest.schema_hash == adopted.manifest.schema_hash
    assert again.manifest.digest == adopted.manifest.digest
    other = given_catalog(base=given_document()["base"] | {"version": "2"})
    newer = adopt(log, other, run_dir=log / "newer")
    assert newer.manifest.digest["columns"] != adopted.manifest.digest["columns"]
    assert newer.manifest.schema_hash != adopted.manifest.schema_hash


def test_a_finished_adoption_is_left_alone(log, adopted):
    with pytest.raises(AlreadyFinished):
        adopt(log, run_dir=adopted.run_dir)


def sigmoid(column):
    return pa.array([1 / (1 + math.exp(-value)) for value in column.to_pylist()])


def with_nan(column):
    return pa.array([math.nan if i == 7 else v for i, v in enumerate(column.to_pylist())])


def shorter(column):
    return pa.array([value[:2] if i == 7 else value for i, value in enumerate(column.to_pylist())])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"logit_ctr": sigmoid}, r"every value of logit_ctr lies between 0 and 1 .* ln\(p / "),
        ({"logit_ctr": with_nan}, "4 of .* rows have no finite logit in logit_ctr. Log a finite"),
        ({"h": shorter}, "rows have no list of 3 finite numbers in h. Log a finite value"),
        ({"logit_cvr": lambda c: pa.array([0.5] * len(c))}, "logit_cvr is 0.5 in every row"),
        ({"logit_ctr": None}, "4 of 4 files lack logit_ctr"),
        (
            {"h": lambda c: pa.array([[1.0, 2.0]] * len(c), pa.list_(pa.float32(), 2))},
            "lists of 2 numbers, base.units says 3",
        ),
    ],
    ids=["probability", "nan", "length of a row", "constant", "renamed", "length of all"],
)
def test_columns_that_are_no_base_are_refused_with_what_to_change(tmp_path, columns, says):
    splits = {name: {"slice": cut} for name, cut in (
        ("tune", [0.0, 0.5]), ("valid", [0.5, 0.999]), ("gate", [0.999, 1.0]),
    )}  # fmt: skip
    root = write_given_log(tmp_path, **columns)
    with pytest.raises((BadLog, BadRequest), match=f"(?s){says}"):
        adopt(root, given_catalog(splits=splits))
    assert not (tmp_path / "run" / "base").exists()


def test_rows_without_an_answer_may_be_allowed(tmp_path):
    result = adopt(write_given_log(tmp_path, logit_ctr=with_nan), max_unusable_share=0.01)
    assert result.adoption.unusable["no finite logit in logit_ctr"] > 0
    assert all(math.isfinite(task.log_loss) for task in result.adoption.quality.tasks)


def test_a_turned_sign_and_an_unlikely_size_are_pointed_at(tmp_path):
    root = write_given_log(tmp_path, logit_ctr=lambda c: pc.multiply(c, -40.0))
    advice = "\n".join(adopt(root).adoption.advice)
    assert "logit_ctr reaches from" in advice
    assert "ctr ranks worse than chance" in advice


def adopt_towers(log, run_dir, **changes):
    path = run_dir.parent / "towers.safetensors"
    safetensors_torch.save_file(towers_weights() | changes, path)
    return adopt(log, towers_catalog(), run_dir=run_dir, weights=path)


def test_towers_are_published_with_the_columns(log, adopted, tmp_path):
    result = adopt_towers(log, tmp_path / "run")
    assert result.adoption.quality.tasks[0].auc == adopted.adoption.quality.tasks[0].auc
    base = published_base.open_base(tmp_path / "run")
    assert [entry.path for entry in base.manifest.files] == ["module.safetensors"]
    loaded = FrozenBase.load(base, FrozenTablesSpec(), ResolvedPlacement(), ALONE)
    tensors = loaded.model.towers.named_tensors(["ctr", "cvr"])
    assert all(torch.equal(tensors[name], weight) for name, weight in towers_weights().items())
    assert loaded.digest().by_name | {"columns": ""} == base.manifest.digest | {"columns": ""}


def test_towers_that_make_other_logits_are_refused_with_the_first_rows(log, tmp_path):
    says = r"(?s)the towers make other logits of h: .*\n  row 0 of the split, ctr: .* by the towers"
    with pytest.raises(BadLog, match=says):
        adopt_towers(log, tmp_path / "run", **{"ctr.1.bias": torch.tensor([-0.4])})
    assert not (tmp_path / "run/base").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"trust": "pickle"}, "trust="),
        ({"scores": {"ctr": "s"}, "outputs": {"h": "top"}}, "scores= and outputs="),
    ],
)
def test_settings_of_modules_are_refused_by_name(log, tmp_path, settings, named):
    with pytest.raises(BadRequest, match=f"{named}: settings of a module"):
        adopt(log, run_dir=tmp_path / "run", **settings)


def test_a_catalogue_without_a_given_base_is_not_adopted(log):
    with pytest.raises(BadRequest, match=r"has no \[base\]"):
        adopt(log, small_catalog(), run_dir=log / "none")


def test_a_given_base_is_not_pretrained(log):
    asked = {"catalog": "given.toml", "data_root": str(log), "run_dir": log / "trained"}
    with pytest.raises(PipelineError, match=r"a \[base\] that runs elsewhere"):
        pretrain_base(PretrainSpec.model_validate(asked), given_catalog(), ProcessLauncher())
