"""`iak predict`: what is shown of its rows, by kernel and by reason."""

from datetime import UTC, datetime

from iak.jobs import predict
from iak.pipeline.runs.predict import PredictResult
from iak.schemas.record import RunRecord
from iak.schemas.scoring import ScoringResult


def result(run_dir, **changes):
    fields = {
        "rows": 1234, "parts": 2, "kernels": {"region=a": 1000, "base": 234},
        "reasons": {"its domain has no kernel": 234}, "contract": {}, "base_fingerprint": "b" * 64,
        "bundles": None,
    }  # fmt: skip
    record = RunRecord(
        verb="predict", status="finished", exit_code=0, spec={}, spec_digest="d",
        started_at=datetime(2026, 10, 29, tzinfo=UTC), timings_s={"predict": 1.5},
    )  # fmt: skip
    scoring = ScoringResult.model_validate(fields | changes)
    return PredictResult(run_dir=run_dir, record=record, scoring=scoring)


def shown(capsys, *args, **changes):
    predict.show(result(*args, **changes))
    return " ".join(capsys.readouterr().out.split())


def test_rows_are_shown_by_kernel_and_by_reason(tmp_path, capsys):
    said = shown(capsys, tmp_path)
    assert "1,234 in 2 files" in said
    assert "region=a: 1,000" in said
    assert "its domain has no kernel: 234" in said


def test_rows_that_their_own_kernels_predicted_need_no_reason(tmp_path, capsys):
    assert "not by their own kernel: none" in shown(capsys, tmp_path, reasons={})


def test_of_very_many_kernels_the_rest_is_summed(tmp_path, capsys):
    said = shown(capsys, tmp_path, kernels={f"k{n:02}": 100 - n for n in range(15)})
    assert "k11: 89" in said
    assert "k12" not in said
    assert "3 more: 261" in said
