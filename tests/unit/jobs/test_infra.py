"""`iak infra render`: the files lie where they are wanted, and what to do with them is shown."""

import pytest

from iak.jobs import infra
from iak.pipeline.errors import BadRequest
from iak.schemas.deploy import RenderSpec
from tests.unit.deploy.test_render import NIGHTLY


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nightly.toml"
    path.write_text(NIGHTLY.format(catalog="planted", base="/iak/base"))
    return path


def test_the_files_of_a_target_are_written_and_the_first_steps_shown(file, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert infra.main(RenderSpec(file=file, out=out, targets=("systemd",))) == 0
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert written == ["systemd/iak-shop.service", "systemd/iak-shop.timer"]
    said = " ".join(capsys.readouterr().out.split())
    assert "2 files at" in said
    assert "systemctl" in said


def test_rendering_again_writes_the_same(file, tmp_path):
    spec = RenderSpec(file=file, out=tmp_path / "out")
    infra.main(spec)
    first = {path: path.read_bytes() for path in spec.out.rglob("*") if path.is_file()}
    infra.main(spec)
    assert {path: path.read_bytes() for path in spec.out.rglob("*") if path.is_file()} == first


def test_a_night_that_could_not_run_there_writes_nothing(tmp_path):
    file = tmp_path / "nightly.toml"
    file.write_text(NIGHTLY.format(catalog="planted", base="/home/me/base"))
    with pytest.raises(BadRequest, match="base=/home/me/base"):
        infra.main(RenderSpec(file=file, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
