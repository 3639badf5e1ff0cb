"""`iak submit` sends the code and what is named; nothing else leaves the machine."""

import pytest

from iak.jobs import packing
from iak.pipeline.errors import BadRequest


@pytest.fixture
def checkout(tmp_path):
    project = tmp_path / "checkout"
    for path in (
        "pyproject.toml", "infra/package/iak/__init__.py", "pipeline/data/logs.py", "jobs/cli.py",
        "jobs/configs/demo.toml",
        "schemas/catalog/planted.toml", ".env", "jobs/.env", "jobs/token.pem", "runs/a.parquet",
        "deploy/key.pem", "deploy/.netrc", "deploy/catalog/shop.toml", "pipeline/events.parquet",
        ".git/config", "jobs/__pycache__/cli.pyc", "jobs/aws_credentials.toml",
    ):  # fmt: skip
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(path)
    return project


def sent(checkout, place, *include):
    place.mkdir()
    packed = packing.pack(checkout, include, place)
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert len(files) == sum(len(paths) for paths in packed.values())
    return files


CODE = {
    "pyproject.toml", "iak/__init__.py", "iak/pipeline/data/logs.py", "iak/jobs/cli.py",
    "iak/jobs/configs/demo.toml", "iak/schemas/catalog/planted.toml",
}  # fmt: skip


def test_only_source_files_are_sent(checkout, tmp_path):
    assert sent(checkout, tmp_path / "sent") == CODE


def test_what_is_named_is_sent_without_its_secrets(checkout, tmp_path):
    assert sent(checkout, tmp_path / "sent", "deploy") == CODE | {"deploy/catalog/shop.toml"}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (".env", "never sent"),
        ("deploy/key.pem", "never sent"),
        ("../elsewhere", "below"),
        ("/etc", "below"),
        ("absent.toml", "below"),
    ],
)
def test_a_secret_or_a_path_elsewhere_is_refused_by_name(checkout, tmp_path, entry, why):
    (tmp_path / "elsewhere").write_text("not of this checkout")
    with pytest.raises(BadRequest, match=why) as told:
        sent(checkout, tmp_path / "sent", entry)
    assert repr(entry) in str(told.value)


def test_a_link_out_of_the_checkout_is_not_followed(checkout, tmp_path):
    (tmp_path / "private").write_text("not of this checkout")
    (checkout / "deploy" / "link.toml").symlink_to(tmp_path / "private")
    assert "deploy/link.toml" not in sent(checkout, tmp_path / "sent", "deploy")


def test_what_is_sent_is_told_in_a_line(checkout, tmp_path):
    (tmp_path / "sent").mkdir()
    packed = packing.pack(checkout, ("deploy",), tmp_path / "sent")
    told = packing.summary(packed, checkout)
    assert told.startswith("sending 7 files")
    assert "pipeline (1)" in told
    assert "deploy (1)" in told
