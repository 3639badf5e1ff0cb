"""The lines of committed records are read as their types, and written byte for byte as before."""

import json
from pathlib import Path

import pytest

from iak.schemas.scaling_result import (
    BytesLine,
    ErrorLine,
    MeasuredLine,
    SharesLine,
    SimulatedLine,
)

BENCHMARKS = Path(__file__).parents[3] / "infra" / "benchmarks"
LINES = {
    kind.model_fields["table"].default: kind
    for kind in (BytesLine, ErrorLine, MeasuredLine, SharesLine, SimulatedLine)
}


@pytest.mark.parametrize("folder", ["epyc-2-cores", "xeon-2-cores"])
def test_a_committed_record_has_these_lines(folder):
    rows = json.loads((BENCHMARKS / folder / "scaling.json").read_bytes())["rows"]
    assert {row["table"] for row in rows} == set(LINES)
    for row in rows:
        line = LINES[row["table"]].model_validate(row)
        assert json.dumps(line.as_row()) == json.dumps(row)
