"""One line of a night, for chat."""

from iak.pipeline.report.summary import failed_and_held, sentence_of, summary_of
from tests.nights import a_night


def test_a_line_has_the_numbers_and_the_names_of_what_failed():
    line = summary_of(a_night())
    assert line.startswith("shop, night of 2026-10-28: ")
    assert " of 41 kernels promoted, " in line
    assert line.endswith("Failed: city=qingdao.")


def test_an_outcome_that_did_not_happen_is_not_named():
    assert sentence_of(a_night(domains=2)) == "3 of 3 kernels promoted."


def test_many_names_are_cut_and_counted():
    record = a_night(domains=6)
    failed = [domain.model_copy(update={"outcome": "failed"}) for domain in record.domains]
    line = failed_and_held(record.model_copy(update={"domains": failed}))
    assert line == "Failed: pooled, city=shanghai, city=beijing, and 4 more."


def test_a_name_with_a_line_break_stays_in_one_line():
    record = a_night(domains=1)
    decision = record.domains[1].decision.model_copy(update={"domain": [("city", "a\nb")]})
    domain = record.domains[1].model_copy(update={"decision": decision, "outcome": "failed"})
    assert "\n" not in summary_of(record.model_copy(update={"domains": [domain]}))


def test_a_night_that_broke_says_its_error_in_one_line():
    record = a_night(domains=1).model_copy(
        update={"status": "failed", "error": "No space left on device\n  at line 3"}
    )
    assert sentence_of(record) == "The night failed: No space left on device."
    running = record.model_copy(update={"status": "running"})
    assert sentence_of(running) == "The night is running; nothing below is final."
