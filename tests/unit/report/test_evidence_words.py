"""Where a chain stands, in words."""

from datetime import date

import pytest

from iak.pipeline.report.evidence_words import evidence_words


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ((2.3, 3.69, 4, None), "2.30 of 3.69 needed after 4 counted nights"),
        ((-0.5, 3.69, 1, None), "-0.50 of 3.69 needed after 1 counted night"),
        ((9.1, 3.69, 8, date(2026, 10, 9)), "proved on 9 Oct 2026"),
        ((0.0, None, 0, None), "0.00 after 0 counted nights"),
        ((2.3, None, None, None), "2.30"),
    ],
)
def test_evidence_is_said_with_what_is_needed(chain, words):
    assert evidence_words(*chain) == words
