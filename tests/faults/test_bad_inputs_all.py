"""A thousand bad inputs of every kind are refused by name: none is accepted, none ends raw.

All of them, some 5,000, are tried by `python -m infra.benchmarks faults bad_inputs=10_000`.
"""

import pytest

from infra.benchmarks.bad_inputs import run_bad_inputs

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1200)]
TRIED = 1_000


def test_a_thousand_bad_inputs_are_refused_by_name(tmp_path):
    found = run_bad_inputs(tmp_path, limit=TRIED, seed=1)
    assert len(found) == TRIED
    assert {outcome.kind for outcome in found} == {"settings", "paths", "catalogues", "files"}
    assert [outcome for outcome in found if outcome.outcome != "refused by name"] == []
