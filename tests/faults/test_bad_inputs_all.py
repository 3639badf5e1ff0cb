"""Every bad input of the corpus is refused by name: none is accepted, none ends in a traceback."""

import pytest

from jobs._bad_inputs import all_bad_inputs, run_bad_inputs

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_all_bad_inputs_are_refused_by_name(tmp_path):
    found = run_bad_inputs(tmp_path, limit=None, seed=0)
    assert len(found) == len(all_bad_inputs())
    assert [outcome for outcome in found if outcome.outcome != "refused by name"] == []
