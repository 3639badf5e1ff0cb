"""The words about a code name what was measured, and nothing else."""

from iak.pipeline.report.code_words import code_words
from iak.schemas.tuning import CodeDiagnostics


def test_what_was_not_measured_is_not_named():
    code = CodeDiagnostics(units=4, active_units=0, largest_change=0.0)
    assert code_words(None, code) == "0 of 4 units active"
    assert code_words(1.0, None) == ""


def test_the_pooled_kernel_has_no_distance_from_itself():
    code = CodeDiagnostics(units=4, active_units=3, largest_change=0.1)
    assert code_words(0.5, code) == "3 of 4 units active; 0.50 nats a row"
    assert "from the pooled one" in code_words(
        0.5, code.model_copy(update={"prior_distance": 0.25})
    )
