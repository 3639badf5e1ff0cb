"""A run is its inputs: each verb refuses its folder when one of them changed, workers unstarted.

The runs are made once, their workers played by this process; paths are relative, so that each test
has a copy of the whole place.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.jobs import evaluate, finetune, pretrain
from iak.jobs.local_launcher import LocalLauncher
from iak.pipeline.base import published_base
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.publish.bundle import read_bundle, write_bundle
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.pipeline.tuning.checkpoint import CHECKPOINT
from iak.schemas.job import EvaluateSpec, FinetuneSpec, PretrainSpec
from iak.schemas.manifest import BaseManifest, BundleSettings
from iak.schemas.plan import PlacementSpec
from tests.builders import draw_rows, write_file, write_log
from tests.unit.jobs.test_pretrain import MODEL, here, pytestmark  # noqa: F401 - the same

CATALOG = """
[log]
name = "small"
partition_keys = ["region", "dt"]
date_key = "dt"
row_id = "event_id"
[domain]
keys = ["region"]
min_rows = 20
[[features]]
kind = "categorical"
name = "user_id"
[[features]]
kind = "numeric"
name = "price"
[[tasks]]
label = "click"
kind = "click"
[splits.pretrain]
slice = [0.0, 0.4]
[splits.pretrain_valid]
slice = [0.4, 0.5]
[splits.tune]
slice = [0.5, 0.7]
[splits.valid]
slice = [0.7, 0.8]
[splits.gate]
slice = [0.8, 0.9]
[splits.test]
slice = [0.9, 1.0]
"""
LAYOUT = [("ningbo", "2026-10-01", [150, 150]), ("wuxi", "2026-10-02", [300])]
STAGE = {"max_epochs": 1, "min_batch": 16, "max_batch": 32}
COMMON = {"catalog": Path("shop.toml"), "data_root": ".", "workers": 1}
KERNEL = {"hidden": 4, "code": 2, "adapter_rank": 1}
FINETUNE = {
    "base": Path("pretrain"), "kernel": KERNEL, "pooled": STAGE, "domain": STAGE,
    "gate": {"min_positives": 3, "min_negatives": 3},
}  # fmt: skip
JOBS = {"pretrain": pretrain, "finetune": finetune, "night": finetune, "evaluate": evaluate}
SPECS = {
    "pretrain": PretrainSpec.model_validate(
        COMMON | {"run_dir": Path("pretrain"), "model": MODEL, "epochs": 1}
    ),
    "finetune": FinetuneSpec.model_validate(COMMON | FINETUNE | {"run_dir": Path("finetune")}),
    "night": FinetuneSpec.model_validate(
        COMMON | FINETUNE | {"run_dir": Path("night"), "live": Path("finetune")}
    ),
    "evaluate": EvaluateSpec.model_validate(
        COMMON | {"run_dir": Path("evaluate"), "base": "pretrain", "bundles": "finetune"}
    ),
}


def run(verb):
    return JOBS[verb].main(SPECS[verb])


def play_workers(monkeypatch, play):
    monkeypatch.setattr(LocalLauncher, "run", play)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, kernels tuned on it, a night after that, and an evaluation."""
    place = tmp_path_factory.mktemp("made")
    write_log(place / "events", LAYOUT)
    (place / "shop.toml").write_text(CATALOG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        play_workers(patch, here)
        for verb in JOBS:
            assert run(verb) in (0, 4)
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of it, in which no worker may start."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")

    def start(*_, **__):
        pytest.fail("workers were started")

    play_workers(monkeypatch, start)
    return tmp_path / "copy"


def restate_labels(labels=lambda click: pa.array([1] * len(click), pa.int8())):
    """Write a file again with other labels."""
    (path,) = Path("events").rglob("part-00001.parquet")
    rows = pq.ParquetFile(path).read()
    column = rows.schema.get_field_index("click")
    click = labels(rows["click"].combine_chunks())
    pq.write_table(rows.set_column(column, rows.schema.field("click"), click), path)


def reshuffle_labels():
    """The same labels on other rows: counts and statistics stay as they were."""
    restate_labels(lambda click: click.take(pa.array(range(len(click))[::-1])))


def add_a_file():
    (path,) = Path("events").rglob("part-00001.parquet")
    write_file(path.with_name("part-00009.parquet"), draw_rows(50, first=900))


def edit_catalog(old, new):
    path = Path("shop.toml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


METRICS = [{"name": "valid_loss", "value": 9.0}]


def publish_base_again():
    """The same weights under another manifest, as another training would have left them."""
    document = json.loads(Path("pretrain/base/manifest.json").read_text())
    published_base.seal(
        Path("pretrain/base"), BaseManifest.model_validate(document | {"metrics": METRICS})
    )


def tune_a_bundle_again():
    opened = published_base.open_base(Path("pretrain"))
    known = {
        "base_fingerprint": opened.manifest.fingerprint,
        "schema_hash": opened.manifest.schema_hash,
    }
    bundle = read_bundle(Path("finetune/bundles/pooled"), **known)
    fields = bundle.manifest
    write_bundle(
        Path("finetune/bundles"), {name: t + 1 for name, t in bundle.tensors.items()},
        domain=None, data_window=fields.data_window, spec=BundleSettings(**fields.spec),
        verdict=fields.verdict, versions=fields.versions, created_at=fields.created_at, **known,
    )  # fmt: skip
    write_index(Path("finetune/bundles"))


CHANGES = {
    "labels, pretrain": ("pretrain", restate_labels, "log changed", "1 file changed (region=wuxi"),
    "labels, finetune": ("finetune", restate_labels, "log changed", "1 file changed (region=wuxi"),
    "labels, evaluate": ("evaluate", restate_labels, "log changed", "1 file changed (region=wuxi"),
    "labels on other rows": (
        "finetune", reshuffle_labels, "log changed", "1 file changed (region=wuxi",
    ),
    "a file more": ("finetune", add_a_file, "log changed", "1 file added (region=wuxi"),
    "the base": ("finetune", publish_base_again, "base changed", ""),
    "the evaluated base": ("evaluate", publish_base_again, "", "was tuned on base"),
    "domain keys": (
        "finetune", lambda: edit_catalog('keys = ["region"]', 'keys = ["dt"]'),
        "catalogue changed", "domain.keys was ['region'], is ['dt']",
    ),
    "a domain key inside the files": (
        "finetune", lambda: edit_catalog('keys = ["region"]', 'keys = ["scene"]'),
        "log changed", "it is known by the columns that the catalogue reads",
    ),
    "a split": (
        "evaluate", lambda: edit_catalog("[0.9, 1.0]", "[0.95, 1.0]"),
        "catalogue changed", "splits.test.slice was [0.9, 1.0], is [0.95, 1.0]",
    ),
    "a feature": (
        "pretrain", lambda: edit_catalog('name = "price"', 'name = "price"\nlog = true'),
        "catalogue changed", "features.price.log was False, is True",
    ),
    "live bundles": ("night", tune_a_bundle_again, "live bundles changed", ""),
    "evaluated bundles": ("evaluate", tune_a_bundle_again, "bundles changed", ""),
}  # fmt: skip


@pytest.mark.parametrize(("verb", "change", "told", "detail"), CHANGES.values(), ids=CHANGES)
def test_a_finished_run_of_other_inputs_is_refused_with_what_changed(
    place, verb, change, told, detail
):
    before = (place / verb / "record.json").read_bytes()
    change()
    with pytest.raises(BadRequest) as refused:
        run(verb)
    assert told in str(refused.value)
    assert detail in str(refused.value)
    assert (place / verb / "record.json").read_bytes() == before


@pytest.mark.parametrize("verb", JOBS)
def test_a_finished_run_of_the_same_inputs_says_so(place, verb):
    with Path("shop.toml").open("a") as catalog:
        catalog.write("# another comment\n")
    shutil.rmtree(place / "pretrain" / "base" / "optimizer")
    with pytest.raises(AlreadyFinished, match="nothing was done"):
        run(verb)


RESULTS = {
    "a base table's file": ("pretrain", "base/tables", "is missing"),
    "the base": ("pretrain", "base", "base is missing"),
    "bundles": ("finetune", "bundles", "bundles is missing"),
    "a bundle": ("finetune", "bundles/pooled", "lacks bundles that its index.json names: pooled"),
    "predictions": ("evaluate", "predictions", "predictions/test-0.parquet is missing"),
    "metrics": ("evaluate", "metrics.json", "metrics.json is missing"),
}


@pytest.mark.parametrize(("verb", "name", "told"), RESULTS.values(), ids=RESULTS)
def test_a_finished_run_whose_results_are_gone_is_not_called_finished(place, verb, name, told):
    path = place / verb / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(Corrupt, match="recorded as finished") as refused:
        run(verb)
    assert told in str(refused.value)
    assert read_record(place / verb).status == "finished"


def test_records_name_inputs_and_outputs_and_nothing_that_a_failure_left(made):
    records = {verb: read_record(made / verb) for verb in JOBS}
    inputs = {verb: {*record.inputs} for verb, record in records.items()}
    common = {"catalogue", "log", "dates"}
    frozen = common | {"base", "encoding of the base"}
    assert inputs == {
        "pretrain": common, "finetune": frozen, "night": frozen | {"live bundles"},
        "evaluate": frozen | {"bundles"},
    }  # fmt: skip
    assert {verb: sorted(record.outputs) for verb, record in records.items()} == {
        "pretrain": ["base"],
        "finetune": ["bundles"],
        "night": ["bundles"],
        "evaluate": ["metrics.json", "metrics.parquet", "predictions/test-0.parquet"],
    }


@pytest.fixture
def unfinished(place, monkeypatch):
    """A night that was interrupted after its first checkpoint."""
    shutil.rmtree(place / "night")

    def start(_launcher, launch, _report):
        (launch.run_dir / CHECKPOINT).write_bytes(b"so far")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        play_workers(patch, start)
        with pytest.raises(KeyboardInterrupt):
            run("night")
    assert read_record(place / "night").status == "interrupted"
    return place / "night"


UNFINISHED = {
    "labels": (restate_labels, "log changed"),
    "the base": (publish_base_again, "was tuned on base"),
    "domain keys": (CHANGES["domain keys"][1], "domain.keys was ['region'], is ['dt']"),
    "live bundles": (tune_a_bundle_again, "live bundles changed"),
}


@pytest.mark.parametrize(("change", "told"), UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_run_is_not_resumed_on_other_inputs(unfinished, change, told):
    before = (unfinished / "record.json").read_bytes()
    change()
    for _ in range(2):
        with pytest.raises(BadRequest) as refused:
            run("night")
        assert told in str(refused.value)
    assert (unfinished / "record.json").read_bytes() == before
    assert (unfinished / CHECKPOINT).read_bytes() == b"so far"


def test_an_unfinished_run_is_resumed_on_the_same_inputs(unfinished, monkeypatch):
    seen = SimpleNamespace(is_there=False)

    def start(_launcher, launch, _report):
        seen.is_there = (launch.run_dir / CHECKPOINT).exists()
        raise KeyboardInterrupt

    play_workers(monkeypatch, start)
    with pytest.raises(KeyboardInterrupt):
        run("night")
    assert seen.is_there
    assert read_record(unfinished).attempts == 2


def test_a_pretraining_may_move_to_another_plan_while_it_is_unfinished(place, monkeypatch):
    shutil.rmtree(place / "pretrain")

    def start(_launcher, launch, _report):
        (launch.run_dir / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    play_workers(monkeypatch, start)
    moved = SPECS["pretrain"].model_copy(
        update={"placement": PlacementSpec(row_wise_from_rows=5), "workers": 2}
    )
    for spec in (SPECS["pretrain"], moved):
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(spec)
    assert read_record(place / "pretrain").attempts == 2
    restate_labels()
    with pytest.raises(BadRequest, match="log changed"):
        pretrain.main(moved)
