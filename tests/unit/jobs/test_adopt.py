"""What `iak adopt` shows: the logits' quality over all rows and in the largest domains."""

from iak.jobs import adopt
from iak.jobs.progress import console
from iak.pipeline.runs.adopt import adopt_base
from iak.schemas.job import AdoptSpec
from iak.schemas.manifest import PrecisionEntry, TableEntry
from tests.given_log import given_catalog, write_given_log


def test_tasks_domains_ranges_and_advice_are_shown(tmp_path):
    asked = {"catalog": "given.toml", "data_root": str(write_given_log(tmp_path))}
    spec = AdoptSpec.model_validate(asked | {"run_dir": tmp_path / "run"})
    result = adopt_base(spec, given_catalog())
    warned = result.adoption.model_copy(update={"advice": ("look at [this]",)})
    with console.capture() as captured:
        adopt.show(result.model_copy(update={"adoption": warned}))
    shown = captured.get()
    assert result.adoption.fingerprint[:12] in shown
    for text in ("ctcvr", "region=a", "region=b", "logit_ctr -", "look at [this]"):
        assert text in shown
    assert "tables that workers share" not in shown
    assert shown.index("the given logits on validation rows") < shown.index("by domain, 2 of 2")


def test_tables_of_a_module_and_what_their_precision_costs_are_shown(tmp_path):
    asked = {"catalog": "given.toml", "data_root": str(write_given_log(tmp_path))}
    spec = AdoptSpec.model_validate(asked | {"run_dir": tmp_path / "run"})
    result = adopt_base(spec, given_catalog())
    tables = [TableEntry(name=n, rows=1000, width=4, features=[n]) for n in ("users", "items")]
    measured = {"task": "ctr", "rows": 9, "log_loss": 0.5}
    precisions = [
        PrecisionEntry(precision="fp32", auc=0.75, **measured),
        PrecisionEntry(precision="int8", auc=0.7425, **measured),
    ]
    manifest = result.manifest.model_copy(update={"tables": tables, "precisions": precisions})
    with console.capture() as captured:
        adopt.show(result.model_copy(update={"manifest": manifest}))
    assert "tables that workers share: 2, 2,000 rows" in captured.get()
    assert "tables in low precision: int8: ctr -0.00750" in captured.get()
