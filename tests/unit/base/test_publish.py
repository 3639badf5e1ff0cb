"""Publishing what was trained: sealed whole, again after a death, and never in parts."""

import dataclasses
import shutil

import pytest

from iak.pipeline.base import publish, published_base
from iak.pipeline.base.best_weights import read_best
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.base.pretrain_work import BEST
from iak.pipeline.base.publish import BaseProvenance, publish_trained
from iak.pipeline.process import process_group
from iak.schemas.job import PretrainSpec
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.manifest import BaseMetric
from tests.builders import write_log
from tests.unit.base.test_pretrain import pytestmark, work_of  # noqa: F401 - the same warnings

SPEC = PretrainSpec(catalog="small", data_root="log", run_dir="run", seed=7)
EXTRA = BaseMetric(name="extra", value=1.5)
ORIGIN = BaseProvenance(spec=SPEC, snapshot=LogSnapshot(files=()), versions={"torch": "2"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a training run leaves, and what it measured."""
    folder = tmp_path_factory.mktemp("trained")
    write_log(folder / "events", [("ningbo", "2026-10-01", [150])])
    with process_group(0, 1, backend="gloo") as worker:
        work = dataclasses.replace(work_of(folder), epochs=1, trials=())
        return work, pretrain(work, worker=worker, report=lambda _: None)


@pytest.fixture
def work(trained, tmp_path):
    """The same in a folder of its own."""
    work, _ = trained
    shutil.copytree(work.run_dir, tmp_path / "run")
    return dataclasses.replace(work, run_dir=tmp_path / "run")


def test_the_published_base_is_what_was_trained(work, trained):
    result = trained[1]
    manifest = publish_trained(work, result, ORIGIN, metrics=[EXTRA])
    opened = published_base.open_base(work.run_dir)
    assert opened.manifest == manifest
    assert manifest.spec["seed"] == 7
    assert manifest.spec["model"] == work.model.model_dump(mode="json")
    assert manifest.parent is None
    assert manifest.metrics[0] == BaseMetric(name="valid_loss", value=result.best_valid_loss)
    assert manifest.metrics[-1] == EXTRA
    assert manifest.digest == read_best(work.run_dir / BEST).digest


def test_publishing_again_gives_the_same_base(work, trained):
    first = publish_trained(work, trained[1], ORIGIN)
    again = publish_trained(work, trained[1], ORIGIN)
    assert again.fingerprint == first.fingerprint
    assert not (work.run_dir / ".sealed").exists()


def test_a_run_that_died_while_it_sealed_publishes_whole(work, trained):
    half = work.run_dir / ".sealed"
    half.mkdir()
    (half / "left-over").write_text("half")
    publish_trained(work, trained[1], ORIGIN)
    assert not (work.run_dir / "base" / "left-over").exists()
    published_base.open_base(work.run_dir)


def test_a_file_system_without_links_gets_copies(work, trained, monkeypatch):
    def refused(*_):
        raise OSError("links are not supported")

    monkeypatch.setattr(publish.os, "link", refused)
    manifest = publish_trained(work, trained[1], ORIGIN)
    assert published_base.open_base(work.run_dir).manifest == manifest
