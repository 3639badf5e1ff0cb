"""`check_log`: findings and profile together; what is refused, and what is left out."""

import dataclasses
import json

import pytest

from iak.pipeline.data.contract import Finding
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.check import LogChecked, check_log
from iak.schemas.job import CheckSpec
from tests.builders import small_catalog, write_log

CATALOG = small_catalog()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    write_log(folder / "events", [("ningbo", "2026-10-01", [120]), ("wuxi", "2026-10-02", [90])])
    return folder


def checked(root, report=lambda _: None, **changes):
    spec = CheckSpec.model_validate({"catalog": "small", "data_root": str(root)} | changes)
    return check_log(spec, CATALOG, report)


def test_a_log_has_its_splits_counted_and_its_profile(root):
    found = checked(root)
    assert found.log == "small"
    assert found.report.split_rows == {"pretrain": 210}
    assert found.profile is not None
    assert not found.is_refused
    document = json.loads(json.dumps(found.document(), default=str))
    assert set(document) == {"findings", "splits", "unseen", "counted_rows", "profile"}
    assert document["splits"] == {"pretrain": 210}


def test_findings_are_reported_before_the_profile_which_takes_longer(root):
    events = []
    checked(root, events.append)
    kinds = [event.name for event in events]
    reported = [event for event in events if isinstance(event, LogChecked)]
    assert len(reported) == 1
    after = kinds[kinds.index(LogChecked.name) :]
    assert any("phase" in name for name in after), "the profile follows"


def test_without_a_profile_the_document_says_so(root):
    found = checked(root, profile=False)
    assert found.profile is None
    assert found.document()["profile"] is None


@pytest.mark.parametrize(
    ("level", "is_refused"), [("warn", False), ("quarantine", False), ("refuse", True)]
)
def test_one_finding_that_refuses_refuses_the_log(root, level, is_refused):
    found = checked(root, profile=False)
    finding = Finding(level=level, what="labels", column="click", count=1, remedy="correct it")
    report = dataclasses.replace(found.report, findings=[finding])
    assert dataclasses.replace(found, report=report).is_refused is is_refused


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="gone"):
        checked(tmp_path / "gone")
