"""What `iak adopt` shows: the logits' quality over all rows and in the largest domains."""

from iak.jobs import adopt
from iak.jobs._progress import console
from iak.pipeline.runs.adopt import adopt_base
from iak.schemas.job import AdoptSpec
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
    assert shown.index("the given logits on validation rows") < shown.index("by domain, 2 of 2")
