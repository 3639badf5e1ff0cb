import pytest
from pydantic import ValidationError

from iak.schemas.forget import ForgetReport, TouchedBundle, TouchedCache, TouchedFile

FILE = TouchedFile(path="region=a/part-0.parquet", rows=3)
BUNDLE = {
    "stored": "a" * 64, "domain": "region=a", "aliases": ["champion"], "run": "/runs/1",
    "state": "touched", "rows": 3,
}  # fmt: skip


def test_a_report_survives_json():
    report = ForgetReport(
        registry="registry",
        users=2,
        files=[FILE],
        bundles=[TouchedBundle.model_validate(BUNDLE)],
        caches=[TouchedCache(path="cache", state="unknown", bytes=0)],
    )
    assert ForgetReport.model_validate_json(report.model_dump_json()) == report


def test_rows_that_cannot_be_counted_are_null_with_a_reason():
    lost = BUNDLE | {"state": "unknown", "rows": None, "reason": "its run folder is gone"}
    assert TouchedBundle.model_validate(lost).rows is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": -1},
        {"state": "maybe"},
        {"stored": "../../etc"},
        {"aliases": ["Champion!"]},
        {"file": "unknown field"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_no_report_may_say_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TouchedBundle.model_validate(BUNDLE | wrong)


def test_a_report_is_not_changed_after_it_was_made():
    with pytest.raises(ValidationError, match="frozen"):
        FILE.rows = 0
