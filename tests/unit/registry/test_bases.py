"""`base=registry:PLACE@ALIAS`: the base of the newest pointer, or a refusal in words."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from iak.pipeline.errors import BadRequest, WrongBase
from iak.pipeline.registry import bases
from iak.pipeline.registry.bases import open_base
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.job import EvaluateSpec
from iak.schemas.paths import in_registry
from tests.unit.publish.test_bundle import BASE
from tests.unit.registry.nights import ROME, night, promote

OTHER = "d" * 64


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry, and bases that lie where their names say: /bases/FINGERPRINT."""

    def opened(path):
        return SimpleNamespace(folder=path, manifest=SimpleNamespace(fingerprint=path.name))

    monkeypatch.setattr(bases.published_base, "open_base", opened)
    return FolderStore(tmp_path / "registry")


def reference(registry, alias="champion"):
    return Path(f"registry:{registry.uri}@{alias}")


def of_base(run, fingerprint, *, lies_in=None):
    return replace(run, base=lies_in or f"/bases/{fingerprint}")


def test_the_base_of_the_newest_pointer_is_opened(registry, tmp_path):
    promote(registry, of_base(night(tmp_path / "n1"), BASE))
    assert open_base(reference(registry)).folder == Path(f"/bases/{BASE}")
    newer = night(tmp_path / "n2", seed=1, domains=(ROME,), base_fingerprint=OTHER)
    promote(registry, of_base(newer, OTHER))
    assert open_base(reference(registry)).folder == Path(f"/bases/{OTHER}")


def test_a_plain_path_is_opened_as_it_is(registry):
    assert open_base(Path("/bases/R1")).folder == Path("/bases/R1")
    assert not registry.root.exists()


def test_another_base_in_the_same_place_is_refused(registry, tmp_path):
    promote(registry, of_base(night(tmp_path / "n1"), BASE, lies_in=f"/bases/{OTHER}"))
    with pytest.raises(WrongBase, match=rf"is base {OTHER} now, but .* runs on {BASE}"):
        open_base(reference(registry))


def test_a_base_that_nobody_knows_the_place_of_is_said(registry, tmp_path):
    promote(registry, night(tmp_path / "n1"))
    with pytest.raises(BadRequest, match="does not know where base"):
        open_base(reference(registry))


def test_an_alias_without_pointers_or_a_wrong_one_is_refused(registry, tmp_path):
    promote(registry, of_base(night(tmp_path / "n1"), BASE))
    with pytest.raises(BadRequest, match="has no candidate yet"):
        open_base(reference(registry, "candidate"))
    with pytest.raises(BadRequest, match=r"base=registry:.*@best names no alias"):
        open_base(reference(registry, "best"))


@pytest.mark.parametrize("place", ["/registries/shop", "s3://bucket/shop/registry"])
def test_a_reference_is_written_in_a_record_as_a_person_wrote_it(place):
    text = f"registry:{place}@champion"
    spec = EvaluateSpec(catalog="c", data_root="d", run_dir="r", base=text, bundles=text)
    assert in_registry(spec.base) == (place, "champion")
    written = spec.model_dump(mode="json")
    assert (written["base"], written["bundles"]) == (text, text)
