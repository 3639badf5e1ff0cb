"""Every path is looked at before a job starts, and nothing is made or changed by looking."""

import os
from pathlib import Path

import pytest

from iak.jobs.path_settings import check_paths, paths_of, setting_of
from iak.pipeline.errors import BadRequest
from iak.schemas.base import Spec
from iak.schemas.paths import (
    FileOrFolderToRead,
    FileToRead,
    FileToWrite,
    FolderToRead,
    FolderToWrite,
)


class Inner(Spec):
    """Settings inside others."""

    folder: FolderToWrite | None = None


class Asked(Spec):
    """One path of each role."""

    log: FolderToRead | None = None
    plan: FileToRead | None = None
    weights: FileOrFolderToRead | None = None
    out: FolderToWrite | None = None
    picture: FileToWrite | None = None
    cache: Inner = Inner()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return tmp_path


def refused(**paths):
    with pytest.raises(BadRequest) as error:
        check_paths(Asked(**paths))
    return str(error.value)


def test_paths_that_are_what_they_are_for_pass_and_nothing_is_made(place):
    before = sorted(place.rglob("*"))
    check_paths(
        Asked(
            log=place / "folder",
            plan=place / "file",
            out=place / "new" / "deep",
            picture=place / "new.png",
            cache=Inner(folder=place / "folder"),
        )
    )
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("setting", "name", "says"),
    [
        ("log", "absent", "does not exist; expected a folder"),
        ("log", "file", "is a file, expected a folder"),
        ("log", "dangling", "is a link to"),
        ("plan", "folder", "is a folder, expected a file"),
        ("plan", "absent", "does not exist; expected a file"),
        ("weights", "absent", "does not exist; expected a file or a folder"),
        ("weights", "dangling", "is a link to"),
        ("out", "file", "is a file, expected a folder"),
        ("out", "file/below", "is a file"),
        ("out", "dangling", "is a link to"),
        ("picture", "folder", "is a folder, expected a file"),
    ],
)
def test_a_path_of_another_kind_is_refused_by_its_setting(place, setting, name, says):
    message = refused(**{setting: place / name})
    assert message.startswith(f"{setting}={place / name}")
    assert says in message


def test_a_path_may_be_either_where_either_is_read(place):
    check_paths(Asked(weights=place / "file"))
    check_paths(Asked(weights=place / "folder"))


@pytest.mark.parametrize(
    ("setting", "wanted"), [("weights", "a file or a folder"), ("plan", "a file"), ("log", "a fol")]
)
def test_what_lies_in_a_registry_or_on_a_store_is_refused_where_a_disk_is_read(setting, wanted):
    in_registry = refused(**{setting: Path("registry:/shop@champion")})
    assert f"is a reference into a registry; expected {wanted}" in in_registry
    on_store = refused(**{setting: Path("s3://bucket/weights")})
    assert f"is on an object store; expected {wanted}" in on_store


def test_a_setting_inside_others_is_named_with_them(place):
    assert refused(cache=Inner(folder=place / "file")).startswith("cache.folder=")


def test_a_name_that_is_too_long_is_a_sentence(place):
    message = refused(log=place / ("x" * 300))
    assert "File name too long" in message
    assert len(message) < 400


def test_links_in_a_circle_are_a_sentence(place):
    (place / "a").symlink_to(place / "b")
    (place / "b").symlink_to(place / "a")
    assert "log=" in refused(log=place / "a" / "inside")


def test_what_this_user_may_not_use_is_refused(place, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do everything
    assert "may not be read by this user" in refused(log=place / "folder")
    assert "may not be written to by this user" in refused(out=place / "new")


def test_every_path_is_listed_with_its_setting(place):
    spec = Asked(log=place, cache=Inner(folder=place / "c"))
    listed = [(name, path, role.is_written) for name, path, role in paths_of(spec)]
    assert listed == [("log", place, False), ("cache.folder", place / "c", True)]


@pytest.mark.parametrize(
    ("file", "setting"),
    [("out", "out"), ("out/deep/file", "out"), ("", "log"), ("elsewhere", "")],
)
def test_a_file_belongs_to_the_setting_whose_path_lies_on_its_way(place, file, setting):
    spec = Asked(log=place / "folder", out=place / "out")
    found = setting_of(spec, str(place / file))
    assert found.partition("=")[0] == setting
    assert setting_of(None, "x") == ""


def test_a_registry_is_looked_at_where_a_base_of_bundles_is_named(tmp_path):
    from iak.schemas.job import EvaluateSpec

    roles = {name: role for name, _, role in paths_of(EvaluateSpec(
        catalog=Path("planted"), data_root="/logs", run_dir=tmp_path / "r", base=tmp_path,
        bundles=tmp_path / "registry@champion",
    ))}  # fmt: skip
    assert roles["bundles"].is_folder
    assert not roles["bundles"].is_written
