"""That a launcher's workers fit the encoding that the command fits by itself."""

from collections import Counter

import pytest

from iak.pipeline.base import published_base
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.view import open_log
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs import pretrain
from tests.integration.small_log import catalog, pretrain_spec, write_log


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log"))


def fitted(root, run_dir, launcher):
    """The files of an encoding that is fitted as `iak pretrain` does, and what was counted."""
    spec = pretrain_spec(root, run_dir, workers=2)
    view = open_log(catalog(), spec.data_root, wanted=["pretrain"])
    labels, counts, events = LabelCounts(view.catalog), Counter(), []
    encoding = pretrain.fit_encoding(
        spec, view, None, launcher, labels=labels, counts=counts, report=events.append
    )
    folder = run_dir / published_base.ENCODING
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(len(keys) for keys in encoding.vocabularies.values())
    return files, labels.counts(), counts, [event.name for event in events]


def test_two_workers_fit_the_encoding_of_the_command_bit_for_bit(root, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "ROWS_ON_WORKERS", 1)
    *alone, alone_events = fitted(root, tmp_path / "alone", None)
    *together, events = fitted(root, tmp_path / "together", ProcessLauncher())
    assert together == alone
    assert "workers_started" in events
    assert "workers_started" not in alone_events
