"""Ray's session lies in a folder that this user alone may enter."""

import os
import stat
from pathlib import Path

import pytest

from iak.jobs import session


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(autouse=True)
def _ours(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(session, "MAX_SOCKET_PATH", 1_000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_it_is_made_for_its_user_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        folder = session.private_folder()
    finally:
        os.umask(before)
    assert folder == tmp_path / f"iak-{os.getuid()}"
    assert mode(folder) == 0o700
    assert session.private_folder() == folder


def test_a_folder_that_was_open_is_closed_again(tmp_path):
    folder = tmp_path / f"iak-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert session.private_folder() == folder
    assert mode(folder) == 0o700


def test_a_name_that_somebody_else_holds_is_not_used(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (tmp_path / f"iak-{os.getuid()}").symlink_to(elsewhere)
    folder = session.private_folder()
    assert folder.parent == tmp_path
    assert folder.name != f"iak-{os.getuid()}"
    assert mode(folder) == 0o700
    assert mode(elsewhere) == 0o755


def test_rays_own_setting_comes_first(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(own))
    assert session.private_folder().parent == own


def test_a_folder_whose_sockets_would_have_too_long_a_path_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "MAX_SOCKET_PATH", 107)
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(session, "_own", lambda parent: parent)
    assert session.private_folder() == Path("/tmp")
