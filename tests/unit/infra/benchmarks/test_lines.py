"""The lines of committed records are read as their types, and written byte for byte as before."""

import json
from pathlib import Path

import pytest

from infra.benchmarks import data, faults, gate, tables, terms
from infra.benchmarks.finetune import lines as finetune
from infra.benchmarks.quality import findings as quality
from infra.benchmarks.serve import findings as serve
from infra.benchmarks.trunks import findings as trunks

HERE = Path(__file__).parents[4] / "infra" / "benchmarks"
RECORDS = ("epyc-2-cores/data", "epyc-2-cores/finetune", "epyc-2-cores/gate",
           "epyc-2-cores/tables", "xeon-2-cores/quality", "epyc-2-cores/serve",
           "xeon-2-cores/terms", "xeon-2-cores/trunks", "cpu-2-cores/faults")  # fmt: skip
DURATIONS = {True: finetune.TrainingLine, False: finetune.NightLine}
OVERLAPS = {True: data.OverlapLine, False: data.OverlapFact}
SERVE = (
    serve.FilesLine,
    serve.DomainsLine,
    serve.SizesLine,
    serve.PromotionsLine,
    serve.AdaptersLine,
)


def kind_of(bench, row):
    """Return the type of a line. Lines of one table differ by the columns that they have."""
    match row.get("table"):
        case table if bench == "serve":
            return next(kind for kind in SERVE if kind.model_fields["table"].default == table)
        case "nights":
            return DURATIONS["losses" in row]
        case "overlap":
            return OVERLAPS["seconds" in row]
        case table:
            kinds = (
                finetune.VariantLine, finetune.DomainsLine, finetune.RayLine, data.StageLine,
                gate.ErrorLine, gate.PowerLine, quality.LeagueLine, quality.PairLine,
                terms.TermLine, trunks.TrunkLine,
            )  # fmt: skip
            by_table = {kind.model_fields["table"].default: kind for kind in kinds}
            return by_table.get(table, tables.SizeLine if table is None else faults.FaultLine)


@pytest.mark.parametrize("path", RECORDS)
def test_a_committed_record_has_these_lines(path):
    record = json.loads((HERE / f"{path}.json").read_bytes())
    rows = [row for row in record["rows"] if row.get("table") != "floors"]
    for row in rows:
        line = kind_of(record["bench"], row).model_validate(row)
        assert json.dumps(line.as_row()) == json.dumps(row)


def test_a_loss_of_rare_nights_is_a_column_of_the_record():
    rows = json.loads((HERE / "epyc-2-cores" / "gate.json").read_bytes())["rows"]
    (row,) = (row for row in rows if row["table"] == "floors" and row["floor"] == 0.05)
    line = gate.FloorLine(
        floor=0.05,
        rows_a_night=row["rows_a_night"],
        promoted={loss: row[f"promoted_if_a_night_loses_{loss:g}"] for loss in gate.LOSSES},
        smallest_gain_of_30_nights=row["smallest_gain_of_30_nights"],
    )
    assert json.dumps(line.as_row()) == json.dumps(row)
