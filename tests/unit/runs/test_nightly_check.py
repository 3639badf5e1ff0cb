"""All problems of a `nightly.toml` are named at once, and nothing is made on the way."""

import pytest

from iak.pipeline.errors import PipelineError
from iak.pipeline.runs.nightly_check import check_nightly
from tests.unit.nightly.test_identity import spec


def unreachable(address):
    raise PipelineError(f"nobody answers at {address}")


def problems(tmp_path, ask_job_server=lambda _: None, **changes):
    fields = {
        "base": tmp_path / "base", "registry": str(tmp_path / "registry"),
        "nights": tmp_path / "nights", "data_root": str(tmp_path / "logs"),
    }  # fmt: skip
    findings = check_nightly(spec(**fields | changes), ask_job_server=ask_job_server)
    assert findings.plan is None
    return dict(findings.problems)


def test_every_part_that_is_wrong_is_named_at_once(tmp_path):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "photo.jpg").touch()
    (tmp_path / "nights").write_text("a file")
    found = problems(
        tmp_path, unreachable, catalog=tmp_path / "none.toml", cluster="http://ray:8265"
    )
    assert set(found) == {"catalog", "registry", "nights", "cluster"}
    assert "none.toml" in found["catalog"]
    assert "photo.jpg" in found["registry"] or "other content" in found["registry"]
    assert found["nights"] == f"{tmp_path / 'nights'} is a file, expected a folder"
    assert found["cluster"] == "nobody answers at http://ray:8265"


def test_a_base_that_is_not_there_is_named(tmp_path):
    found = problems(tmp_path)
    assert set(found) == {"base"}
    assert str(tmp_path / "base") in found["base"]


@pytest.mark.parametrize("name", ["registry", "nights", "logs"])
def test_nothing_is_made(tmp_path, name):
    problems(tmp_path)
    assert not (tmp_path / name).exists()
