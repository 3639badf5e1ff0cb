"""Which of a night's kernels a replay holds; `tests/integration/test_nightly.py` replays nights."""

import pytest

from iak.pipeline.errors import Corrupt
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.runs.nightly_shadow import held_kernels, link_bundles
from iak.schemas.shadow import Exceeded, ScoreChange, ShadowDocument
from tests.unit.serving.shop import write_base, write_bundles

KERNELS = {"region=a": "region=a", "region=b": "pooled", "region=c": "region=c", "pooled": None}
"""Domain of the rows -> kernel that predicts them; `pooled` stands for all rows."""
CHANGE = {"task": "ctr", "rows": 500, "mean": 0, "mean_absolute": 0, "quantiles": {},
          "rank_correlation": None, "groups": 0}  # fmt: skip


def replay(*exceeded):
    return ShadowDocument(
        base_fingerprint="b", live="L", candidate="C", rows=500, not_predicted=0, other_kernel=0,
        latency=1.0, moved=(), exceeded=exceeded,
        changes=tuple(
            ScoreChange.model_validate(CHANGE | {"domain": domain, "candidate_kernel": kernel})
            for domain, kernel in KERNELS.items()
        ),
    )  # fmt: skip


def over(domain, limit="mean_change"):
    task = None if limit == "latency" else "ctr"
    return Exceeded(limit=limit, domain=domain, task=task, seen=0.03125, allowed=0.01)


def held(*exceeded, new=("region=a", "pooled"), withdrawn=()):
    return set(held_kernels(replay(*exceeded), new, withdrawn=withdrawn))


def test_the_kernel_that_predicts_a_domain_s_rows_is_held():
    assert held() == set()
    assert held(over("region=a")) == {"region=a"}
    assert held(over("region=b")) == {"pooled"}, "its rows have the pooled kernel"
    assert held(over("region=a"), over("region=b")) == {"region=a", "pooled"}


def test_a_kernel_that_serves_already_is_not_held():
    assert held(over("region=c")) == set()


def test_rows_whose_kernel_is_withdrawn_hold_nothing():
    assert held(over("region=b"), withdrawn={"region=b"}) == set()


def test_a_limit_over_all_rows_holds_all_but_only_where_no_domain_exceeds_one():
    everywhere = over("pooled", "rank_correlation")
    assert held(everywhere, over("region=a")) == {"region=a"}
    assert held(everywhere) == held(over(None, "latency")) == {"region=a", "pooled"}
    assert held(everywhere, over("region=c")) == {"region=a", "pooled"}


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (
            over("region=a"),
            "mean change of ctr in region=a is 0.03125, and shadow.mean_",
        ),
        (over("pooled"), "mean change of ctr is 0.03125, and shadow.mean_change allows 0.01"),
        (over(None, "latency"), "time over live is 0.03125, and shadow.latency allows 0.01"),
    ],
)
def test_a_held_kernel_says_which_limit_it_exceeds(limit, sentence):
    assert sentence in held_kernels(replay(limit), {"region=a"}, withdrawn=())["region=a"]


def test_linked_bundles_are_those_that_were_named_and_are_verified(tmp_path):
    base = write_base(tmp_path / "R1" / "base")
    write_bundles(tmp_path / "bundles", base)
    first, second, *_ = (
        tmp_path / "bundles" / entry.folder for entry in read_index(tmp_path / "bundles").bundles
    )
    link_bundles([second, first], tmp_path / "linked")
    names = {entry.folder for entry in read_index(tmp_path / "linked").bundles}
    assert names == {first.name, second.name}
    manifest = first / "manifest.json"
    manifest.write_text(manifest.read_text().replace("reason", "raison"))
    with pytest.raises(Corrupt):
        link_bundles([first], tmp_path / "other")
