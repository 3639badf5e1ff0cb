"""Log, runs, base, bundles and nights on S3, and nothing else is shared: moto's server plays it."""

import pyarrow.fs as pafs
import pytest

import iak
from iak.pipeline.base.published_base import open_base
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.pipeline.storage.workplace import read_copy
from tests.faults.test_kill import write_catalog
from tests.integration.small_log import MODEL, write_log
from tests.integration.test_nightly import OPEN_GATE, STAGE
from tests.s3 import KEYS, make_bucket, moto_server

pytestmark = [
    pytest.mark.night,
    pytest.mark.slow,
    pytest.mark.timeout(560),
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
WORKERS = {"workers": 1, "device": "cpu"}
TUNING = {
    **WORKERS, "kernel": {"hidden": 8, "code": 3}, "pooled": STAGE, "domain": STAGE,
    "gate": OPEN_GATE,
}  # fmt: skip
PRETRAINING = {
    **WORKERS, "model": MODEL, "batch_rows": 128, "epochs": 1, "patience": 9, "shuffle_rows": 256,
    "placement": {"row_wise_from_rows": 100},
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A log on S3, beside which only its catalogue is a file."""
    folder, server = tmp_path_factory.mktemp("stored"), moto_server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": server[1]}).items():
            patch.setenv(name, value)
        make_bucket(server[1], "shop")
        write_log(folder / "log", rows=12_000)
        for partition in (folder / "log" / "events").glob("*/*"):
            (partition / "_SUCCESS").touch()
        store, root = pafs.FileSystem.from_uri("s3://shop/log")
        pafs.copy_files(str(folder / "log"), root, destination_filesystem=store)
        write_catalog(folder / "catalog.toml")
        yield folder
    server[0].stop()


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Machines that share no disk: each has its own cache folder, and goes to work when called."""

    def use(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name

    use("first")
    return use


def digests(bundles):
    return {entry.folder: entry.manifest_sha256 for entry in read_index(bundles).bundles}


def weights(bundles):
    return {path.parent.name: path.read_bytes() for path in bundles.glob("*/kernel.safetensors")}


def test_a_base_and_its_kernels_are_the_same_on_s3_as_in_folders(place, tmp_path, machines):
    catalog, log = place / "catalog.toml", place / "log"
    iak.pretrain(catalog, log, run_dir=tmp_path / "R1", **PRETRAINING)
    iak.tune_night(catalog, log, base=tmp_path / "R1", run_dir=tmp_path / "R2", **TUNING)
    iak.evaluate(
        catalog,
        log,
        base=tmp_path / "R1",
        bundles=tmp_path / "R2",
        run_dir=tmp_path / "R3",
        **WORKERS,
    )

    on_s3 = "s3://shop/log"
    iak.pretrain(catalog, on_s3, run_dir="s3://shop/runs/R1", **PRETRAINING)
    machines("second")
    iak.tune_night(catalog, on_s3, base="s3://shop/runs/R1", run_dir="s3://shop/runs/R2", **TUNING)
    machines("third")
    iak.evaluate(
        catalog, on_s3, base="s3://shop/runs/R1/base", bundles="s3://shop/runs/R2",
        run_dir="s3://shop/runs/R3", **WORKERS,
    )  # fmt: skip

    machines("reader")
    base, tuned, judged = (read_copy(f"s3://shop/runs/{name}") for name in ("R1", "R2", "R3"))
    assert open_base(base).manifest.files == open_base(tmp_path / "R1").manifest.files
    assert weights(tuned / "bundles") == weights(tmp_path / "R2" / "bundles") != {}
    assert (judged / "metrics.json").read_bytes() == (tmp_path / "R3/metrics.json").read_bytes()

    record = read_record(tuned)
    assert (record.status, record.spec["run_dir"]) == ("finished", "s3://shop/runs/R2")
    assert record.spec["base"] == "s3://shop/runs/R1"
    machines("fourth")
    with pytest.raises(AlreadyFinished):
        iak.tune_night(
            catalog, on_s3, base="s3://shop/runs/R1", run_dir="s3://shop/runs/R2", **TUNING
        )
