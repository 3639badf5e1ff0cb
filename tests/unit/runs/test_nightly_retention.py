"""After a night what nothing needs goes: bundles beyond the rollbacks, old run folders."""

import pytest

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs import nightly_retention
from iak.pipeline.runs.nightly_retention import apply_retention
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.deploy.nights import nights


@pytest.fixture
def asked(monkeypatch):
    """What the two removals were asked."""
    calls = {}
    monkeypatch.setattr(nightly_retention, "registry_head", lambda store: store)
    monkeypatch.setattr(
        nightly_retention, "remove_unneeded", lambda _, **kw: calls.update(bundles=kw)
    )
    monkeypatch.setattr(
        nightly_retention, "remove_stale_runs", lambda folder, **kw: calls.update(runs=(folder, kw))
    )
    return calls


def test_both_are_asked_for_what_the_file_keeps(asked, tmp_path):
    spec = nights(
        registry=str(tmp_path / "r"), nights=tmp_path / "n", keep={"nights": 5, "bundles": 2}
    )
    assert apply_retention(spec) == []
    assert asked["bundles"] == {"keep": 2, "dry_run": False}
    assert asked["runs"] == (tmp_path / "n", {"keep": 5, "dry_run": False})


def test_a_platform_without_promotions_has_nothing_to_clean(tmp_path):
    assert apply_retention(nights(registry=str(tmp_path / "r"), nights=tmp_path / "n")) == []
    assert not (tmp_path / "r").exists()


def test_what_fails_is_a_notice(asked, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise BadRequest("damaged")

    monkeypatch.setattr(nightly_retention, "remove_unneeded", refuse)
    spec = nights(registry=str(tmp_path / "r"), nights=tmp_path / "n")
    assert apply_retention(spec) == ["The registry was not cleaned: damaged"]
    assert "runs" in asked
    assert isinstance(nightly_retention.open_store(spec.registry), FolderStore)
