"""A log of events is learned from as the log of the two labels that the events are."""

import json
import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline import api
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.publish.bundle import list_bundles, read_manifest
from iak.pipeline.runs.load import parse_catalog
from iak.pipeline.runs.predict import predict
from iak.schemas.scoring import PredictSpec
from tests.integration.small_log import SHIPPED, write_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
MODEL = {"width": 4, "mlp": [8], "experts": 2, "expert_width": 4}
SHORT = {"pooled": {"max_epochs": 1}, "domain": {"max_epochs": 1}}
WORDS = np.array(["view", "click", "order"])


def as_events(path):
    """Write a file's labels as one column of words."""
    rows = pq.read_table(path)
    click, order = (rows.column(name).to_numpy() for name in ("label_click", "label_order"))
    rows = rows.drop_columns(["label_click", "label_order"])
    pq.write_table(rows.append_column("event", pa.array(WORDS[click + order])), path)


def event_catalog(text):
    """The catalogue's text with tasks that read the column of words."""
    for label, words in (("label_click", ["click", "order"]), ("label_order", ["order"])):
        line = f'label = "{label}"'
        assert text.count(line) == 1
        text = text.replace(line, f'label = "event"\npositive = {json.dumps(words)}')
    return text


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """The digests of the kernels and the predictions, of either log."""
    place = tmp_path_factory.mktemp("place")
    catalogs = {"labels": SHIPPED.read_text(), "events": event_catalog(SHIPPED.read_text())}
    return {name: night(place / name, text) for name, text in catalogs.items()}


def night(folder, text):
    log = write_log(folder / "log", rows=6_000, days=14)
    catalog = folder / "planted.toml"
    catalog.write_text(text)
    if tomllib.loads(text)["tasks"][0]["label"] == "event":
        for path in sorted((log / "events").rglob("*.parquet")):
            as_events(path)
    api.pretrain(catalog, log, run_dir=folder / "base", model=MODEL)
    api.tune_night(catalog, log, base=folder / "base", run_dir=folder / "night", **SHORT)
    spec = PredictSpec(
        catalog=catalog, data_root=str(log), base=folder / "base",
        bundles=str(folder / "night" / "bundles"), run_dir=folder / "scores",
    )  # fmt: skip
    done = predict(spec, parse_catalog(catalog), ProcessLauncher())
    return kernels_of(folder / "night"), pq.read_table(done.predictions)


def kernels_of(run):
    """The digest of the weights of each kernel."""
    return {
        bundle.name: read_manifest(bundle).weights_digest
        for bundle in list_bundles(run / "bundles")
    }


def test_both_logs_make_the_same_kernels_and_predictions(nights):
    (kernels, scores), (kernels_of_events, scores_of_events) = nights["labels"], nights["events"]
    assert kernels == kernels_of_events
    assert len(kernels) > 2
    columns = [name for name in scores.column_names if name.startswith("p.")]
    assert {"p.ctr", "p.cvr"} <= {*columns}
    assert scores.select(columns).equals(scores_of_events.select(columns))
