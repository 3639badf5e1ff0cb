"""A base that reads histories, from its training to its answers in files, exports and over HTTP."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import torch
import urllib3

from iak.pipeline.base import published_base
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.process import run_on_workers
from iak.pipeline.publish.publish_bundles import Provenance, publish_bundles
from iak.pipeline.runs.export import export
from iak.pipeline.serving import runtime
from iak.pipeline.tuning.finetune import finetune
from iak.schemas.export import ExportSpec
from iak.schemas.job import EvaluatedTablesSpec
from iak.schemas.log import SplitSpec
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BundleSettings
from iak.schemas.predictions import metric_tasks
from infra.benchmarks.bad_inputs.catalogs import text_of
from tests.integration.small_log import (
    MODEL,
    catalog,
    catalog_document,
    pretrain_spec,
    pretrain_work,
    publish,
    write_log,
)
from tests.integration.test_serve import arrow_of, asked, running
from tests.integration.test_tuning import PUBLISH_SOME, finetune_work
from tests.unit.serving.shop import read_all, score, score_work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
READER = "sasrec"
"""A reader of histories; tests/unit/serving/test_export.py compares exports of the others."""
LAST_DAY = SplitSpec(days=(-1, -1))
ROUNDING = {"fp32": 0.0, "int8": 1e-6}
"""fbgemm adds scale * code with one rounding, torch with two."""


def pretrained_and_published(worker, place):
    """Write a base that reads histories, and the kernels of one night on it."""
    spec = pretrain_spec(place / "log", place, epochs=1, model=MODEL | {"history": READER})
    work = pretrain_work(spec, catalog())
    publish(spec, work, pretrain(work, worker=worker, report=lambda _: None))
    night = finetune_work(place, place / "tuned")
    done = finetune(night, worker=worker, report=lambda _: None)
    manifest = night.base.manifest
    provenance = Provenance(
        base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash,
        data_window=DataWindow(), spec=BundleSettings(kernel=night.kernel), versions={},
        created_at=datetime.now(UTC),
    )  # fmt: skip
    tasks = metric_tasks(night.view.catalog.tasks, negatives_kept=1.0)
    publish_bundles(done, place / "bundles", provenance=provenance, tasks=tasks, gate=PUBLISH_SOME)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    write_log(place / "log")
    run_on_workers(pretrained_and_published, 1, place)
    assert published_base.open_base(place / "base").model.history == READER
    (place / "planted.toml").write_text(text_of(catalog_document()))
    return place


def offline(worker, place, tables):
    """Predict the last day as `iak predict` does."""
    base = published_base.open_base(place / "base")
    folder = place / f"scores-{tables.precision}"
    work = score_work(
        place / "log", base, place / "bundles", folder, catalog=catalog(), rows=LAST_DAY,
        tables=tables,
    )  # fmt: skip
    score(worker, work)


def last_day(place):
    """The rows that `offline` predicts, as a client sends them."""
    log = ds.dataset(place / "log" / "events", partitioning="hive").to_table()
    days = log.column("dt").cast(pa.string())
    return log.filter(pc.equal(days, pc.max(days))).combine_chunks()


def assert_same(found, expected, *, within=0.0):
    """Compare answers to rows with the same ids, in any order; probabilities within a distance."""
    assert sorted(found["id"]) == sorted(expected["id"])
    order = [np.argsort(answers["id"]) for answers in (found, expected)]
    for name, values in expected.items():
        if name == "row" or name not in found:
            continue
        seen, wanted = (np.array(v)[o] for v, o in zip((found[name], values), order, strict=True))
        if name.startswith("p."):
            np.testing.assert_allclose(
                seen.astype(float), wanted.astype(float), rtol=0, atol=within
            )
        else:
            assert seen.tolist() == wanted.tolist()


@pytest.fixture
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("precision", ROUNDING)
def test_files_an_export_and_a_server_answer_alike(place, tmp_path, precision):
    tables = EvaluatedTablesSpec(precision=precision, tolerance=1.0)
    run_on_workers(offline, 1, place, tables)
    expected = read_all(place / f"scores-{precision}").to_pydict()
    assert len({*expected["kernel"]} - {"base", None}) > 1

    rows = last_day(place)
    words = {"catalog": place / "planted.toml", "base": place, "bundles": place / "bundles"}
    export(ExportSpec(**words, out=tmp_path / "export", tables=tables), catalog())
    ids = {"id": rows.column("event_id").cast(pa.string()).to_pylist()}
    exported = runtime.load(tmp_path / "export").predict(rows.to_pydict())
    assert_same(ids | exported, expected, within=ROUNDING[precision])

    settings = [f"{name}={value}" for name, value in words.items()]
    settings += [f"tables.precision={precision}", "tables.tolerance=1", "limits.seconds=120"]
    with running(tmp_path, *settings) as (_, address):
        answer = asked(urllib3.connection_from_url(address), arrow_of(rows))
    assert_same(pa.ipc.open_stream(answer).read_all().to_pydict(), expected)
