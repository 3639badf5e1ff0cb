"""Fresh statistics from the log to a prediction: published with kernels, and read by their id."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from iak.pipeline import api
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.fresh.state import STATISTICS
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.publish.bundle import list_bundles, read_manifest
from iak.pipeline.runs.explain_rows import explain_rows
from iak.pipeline.runs.export import export
from iak.pipeline.runs.load import parse_catalog
from iak.pipeline.runs.predict import predict
from iak.pipeline.serving import runtime
from iak.schemas.explaining import ExplainSpec
from iak.schemas.export import ExportSpec
from iak.schemas.scoring import PredictSpec
from tests.integration.small_log import SHIPPED, write_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
FRESH = """
[[fresh]]
keys = ["category"]
windows = ["P3D", "all"]

[[fresh]]
kind = "co_occurrence"
pair = ["item_id", "hist_item_ids"]
"""
MODEL = {"width": 4, "mlp": [8], "experts": 2, "expert_width": 4}
SHORT = {"pooled": {"max_epochs": 1}, "domain": {"max_epochs": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    write_log(place / "log", rows=12_000, days=14)
    (place / "fresh.toml").write_text(SHIPPED.read_text() + FRESH)
    api.pretrain("planted", place / "log", run_dir=place / "base", model=MODEL)
    return place


def tune(place, name, catalog, **settings):
    night = api.tune_night(
        catalog, place / "log", base=place / "base", run_dir=place / name, **SHORT | settings
    )
    return night, {b.name: read_manifest(b) for b in list_bundles(place / name / "bundles")}


@pytest.fixture(scope="module")
def plain(place):
    return tune(place, "plain", "planted")


@pytest.fixture(scope="module")
def fresh(place):
    return tune(place, "fresh", place / "fresh.toml")


@pytest.fixture(scope="module")
def two(place):
    """The same as `fresh`, by two workers."""
    return tune(place, "two", place / "fresh.toml", workers=2, device="cpu")


def evaluated(place, name, catalog, bundles):
    api.evaluate(catalog, place / "log", base=place / "base", bundles=bundles, run_dir=place / name)
    return ds.dataset(place / name / "predictions").to_table().sort_by("row")


def test_all_kernels_of_a_night_name_one_state_and_a_plain_manifest_names_none(place, plain, fresh):
    states = {manifest.statistics.state for manifest in fresh[1].values()}
    assert len(states) == 1
    assert all(manifest.statistics is None for manifest in plain[1].values())
    text = (place / "plain" / "bundles" / "pooled" / "manifest.json").read_text()
    assert "statistics" not in json.loads(text)
    files = [place / "fresh" / "bundles" / name / STATISTICS for name in fresh[1]]
    assert len({file.stat().st_ino for file in files}) == 1  # one file on the disk
    width = len(parse_catalog(place / "fresh.toml").fresh_names)
    inputs = {n: m["pooled"].shapes["encode_w"][1] for n, (_, m) in
              (("plain", plain), ("fresh", fresh))}  # fmt: skip
    assert inputs["fresh"] == inputs["plain"] + width


def test_a_record_says_what_was_counted_beside_the_splits(place, fresh):
    snapshot = fresh[0].record.snapshot
    counted = {file.path for file in snapshot.counted.files}
    named = {file.path for file in snapshot.files}
    assert counted
    assert not counted & named
    log = {str(p.relative_to(place / "log" / "events")) for p in (place / "log").rglob("*.parquet")
           if "events" in p.parts}  # fmt: skip
    last = f"dt={snapshot.counted.last_day}"
    assert counted | named == {path for path in log if path.split("/")[1] <= last}


def test_any_number_of_workers_counts_the_same_state(fresh, two):
    assert two[1]["pooled"].statistics == fresh[1]["pooled"].statistics


def test_any_number_of_workers_measures_kernels_outside_their_domains_on_one_probe(fresh, two):
    rows = [
        {k.domain: k.outside.rows for k in night.kernels if k.outside} for night, _ in (fresh, two)
    ]
    assert rows[0] == rows[1]
    assert rows[0].keys() == {k.domain for k in fresh[0].kernels} - {"pooled"}
    assert all(count > 100 for count in rows[0].values())


def test_the_progress_of_two_workers_adds_up_to_every_row_once(place, two):
    lines = (place / "two" / "progress.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    # The last line of each worker counts.
    last = {(e["what"], e["rank"]): e for e in events if e["event"] == "rows_done"}
    assert all(event["done"] == event["of"] for event in last.values())
    read = {rank: event["done"] for (what, rank), event in last.items() if what == "rows read"}
    assert read.keys() == {0, 1}
    splits = two[0].record.snapshot.splits
    whole = {name: splits[name].rows for name in ("tune", "valid", "gate")}
    assert sum(read.values()) == sum(whole.values())
    (rows,) = (event for event in events if event["event"] == "rows")
    assert {name: rows[name] for name in whole} == whole


@pytest.mark.usefixtures("plain")
def test_kernels_that_serve_stay_as_they_are_when_a_catalogue_gets_statistics(place):
    # A rate of nearly zero leaves each kernel where it started: at the one that serves.
    still = {"pooled": {"max_epochs": 1, "lr": 1e-12}, "domain": {"max_epochs": 1, "lr": 1e-12}}
    tune(place, "still", place / "fresh.toml", live=place / "plain", **still)
    before = evaluated(place, "e-plain", "planted", place / "plain")
    after = evaluated(place, "e-still", place / "fresh.toml", place / "still")
    served = np.array(before.column("served").to_pylist())
    assert set(served) - {"base"}
    for row in (served != "base").nonzero()[0]:
        assert after.column("own.iak.ctr")[row].as_py() == pytest.approx(
            before.column("own.iak_published.ctr")[row].as_py(), abs=1e-5
        )


@pytest.fixture(scope="module")
def predicted(place, fresh):
    """The scores of all rows by the kernels of `fresh`."""
    assert fresh[0].kernels
    spec = PredictSpec.model_validate(
        {"catalog": place / "fresh.toml", "data_root": str(place / "log"), "workers": 1,
         "device": "cpu", "base": place / "base", "bundles": place / "fresh",
         "run_dir": place / "p-fresh", "tables": {"precision": "fp32"}}
    )  # fmt: skip
    done = predict(spec, parse_catalog(place / "fresh.toml"), ProcessLauncher())
    return pq.read_table(done.predictions)


def test_a_prediction_reads_what_an_evaluation_reads(place, predicted):
    found = evaluated(place, "e-fresh", place / "fresh.toml", place / "fresh")
    scores = predicted.to_pydict()
    by_row = dict(zip(scores["row"], scores["p.ctr"], strict=True))
    expected = zip(
        found.column("row").to_pylist(), found.column("own.iak_published.ctr").to_pylist(),
        strict=True,
    )  # fmt: skip
    for row, probability in expected:
        assert by_row[row] == pytest.approx(probability, abs=1e-6)


def test_an_export_predicts_what_a_prediction_reads(place, predicted):
    spec = ExportSpec.model_validate(
        {"catalog": place / "fresh.toml", "base": place / "base", "bundles": place / "fresh",
         "out": place / "exported", "tables": {"precision": "fp32"}}
    )  # fmt: skip
    export(spec, parse_catalog(place / "fresh.toml"))
    keys = pa.schema({"region": pa.string(), "dt": pa.string()})
    log = ds.dataset(place / "log" / "events", partitioning=ds.partitioning(keys, flavor="hive"))
    rows = log.to_table().slice(0, 2_000)
    answers = runtime.load(place / "exported").predict(rows.to_pydict())
    by_id = dict(
        zip(*(predicted.column(name).to_pylist() for name in ("id", "p.ctr")), strict=True)
    )
    expected = np.array([by_id[str(id)] for id in rows.column("event_id").to_pylist()])
    assert set(answers["kernel"]) - {"base"}
    np.testing.assert_array_equal(answers["p.ctr"], expected)


def test_an_explanation_reads_the_statistics_that_its_kernel_reads(place, fresh):
    assert fresh[0].kernels
    spec = ExplainSpec.model_validate(
        {"catalog": place / "fresh.toml", "data_root": str(place / "log"), "base": place / "base",
         "bundles": place / "fresh", "rows": 500}
    )  # fmt: skip
    found = explain_rows(spec, parse_catalog(place / "fresh.toml")).rows
    served = [row.bundles for row in found if row.bundles.rate_nats is not None]
    assert served
    for explanation in served:
        assert explanation.first_day <= explanation.last_day
        for task in explanation.tasks:
            parts = task.through_h + task.through_adapters + task.through_skip
            p = 1 / (1 + np.exp(-(task.base_logit + parts)))
            assert p == pytest.approx(explanation.probabilities[task.task], abs=1e-5)


def test_kernels_are_refused_without_their_statistics_and_under_another_definition(place, fresh):
    assert fresh[0].kernels
    with pytest.raises(BadRequest, match=r"\[\[fresh\]\], tasks or dates differ"):
        evaluated(place, "e-other", "planted", place / "fresh")
    night = place / "gone" / "bundles"
    tune(place, "gone", place / "fresh.toml")
    for bundle in list_bundles(night):
        (bundle / STATISTICS).unlink()
    with pytest.raises(Corrupt, match="never taken as zero"):
        evaluated(place, "e-gone", place / "fresh.toml", night)


@pytest.fixture(scope="module")
def based(place):
    """A base that reads statistics itself, and kernels on it that read none."""
    text = SHIPPED.read_text() + FRESH.replace("[[fresh]]", '[[fresh]]\nuse = "base"')
    (place / "based.toml").write_text(text)
    api.pretrain(place / "based.toml", place / "log", run_dir=place / "based", model=MODEL)
    return api.tune_night(
        place / "based.toml", place / "log", base=place / "based", run_dir=place / "on", **SHORT
    )


def test_a_base_reads_statistics_and_its_kernels_need_none(place, based):
    assert based.kernels
    catalog = parse_catalog(place / "based.toml")
    manifest = read_manifest(list_bundles(place / "on" / "bundles")[0])
    assert manifest.statistics is None
    assert catalog.fresh_names == ()
    assert len(catalog.number_names) > len(catalog.numeric)
    folder = place / "based" / "base" / "encoding"
    assert (folder / STATISTICS).is_file()


def test_a_prediction_on_such_a_base_is_what_its_evaluation_has(place, based):
    assert based.kernels
    catalog = place / "based.toml"
    api.evaluate(
        catalog, place / "log", base=place / "based", bundles=place / "on", run_dir=place / "e-on"
    )
    found = ds.dataset(place / "e-on" / "predictions").to_table()
    spec = PredictSpec.model_validate(
        {"catalog": catalog, "data_root": str(place / "log"), "workers": 1, "device": "cpu",
         "base": place / "based", "bundles": place / "on", "run_dir": place / "p-on",
         "tables": {"precision": "fp32"}}
    )  # fmt: skip
    scores = pq.read_table(predict(spec, parse_catalog(catalog), ProcessLauncher()).predictions)
    by_row = dict(zip(*(scores.column(n).to_pylist() for n in ("row", "p.ctr")), strict=True))
    columns = [found.column(n).to_pylist() for n in ("row", "own.iak_published.ctr")]
    for row, probability in zip(*columns, strict=True):
        assert by_row[row] == pytest.approx(probability, abs=1e-6)


@pytest.mark.usefixtures("based")
def test_another_catalogue_is_refused_on_such_a_base(place):
    settings = {"base": place / "based", "run_dir": place / "e-wrong"}
    with pytest.raises(BadRequest, match='fresh statistics of use = "base" differ'):
        api.evaluate("planted", place / "log", **settings)
