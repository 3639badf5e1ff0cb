"""A replay reads the chosen rows once, and limits decide about the candidate."""

import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from iak.pipeline.errors import BadRequest
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.predict import predict
from iak.pipeline.runs.shadow import exceeded_limits, shadow
from iak.schemas.log import Catalog
from iak.schemas.scoring import PredictSpec
from iak.schemas.shadow import ScoreChange, ShadowLimits, ShadowSpec
from tests.unit.serving.shop import (
    HANGZHOU,
    read_all,
    shop_document,
    write_base,
    write_bundles,
    write_shop,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("run") / "R1" / "base")


@pytest.fixture(scope="module")
def place(tmp_path_factory, base):
    root = tmp_path_factory.mktemp("place")
    write_shop(root)
    write_bundles(root / "now" / "bundles", base)
    write_bundles(root / "next" / "bundles", base, seed=50)
    return root


def catalog():
    return Catalog.model_validate(shop_document())


def spec_of(place, base, **changes):
    fields = {
        "catalog": "shop", "data_root": str(place), "base": base.folder,
        "live": place / "now", "candidate": place / "next",
    }  # fmt: skip
    return ShadowSpec.model_validate(fields | changes)


@pytest.fixture(scope="module")
def predictions(place, base):
    """What `iak predict` writes with each side's kernels."""
    found = []
    for bundles in ("now", "next"):
        fields = {
            "catalog": "shop", "data_root": str(place), "base": base.folder, "workers": 1,
            "device": "cpu", "bundles": place / bundles, "run_dir": place / f"P-{bundles}",
        }  # fmt: skip
        spec = PredictSpec.model_validate(fields)
        found.append(read_all(predict(spec, catalog(), ProcessLauncher()).predictions))
    return found


def test_the_same_kernels_change_nothing(place, base):
    found = shadow(spec_of(place, base, candidate=place / "now"), catalog())
    assert found.other_kernel == 0
    for change in found.changes:
        assert change.mean_absolute == 0
        assert change.rank_correlation in (None, pytest.approx(1.0))
        assert change.live_auc == change.candidate_auc
        assert change.live_calibration == change.candidate_calibration


@pytest.mark.parametrize("batch_rows", [50, 8192])
def test_the_change_is_that_of_two_predictions_of_the_log(place, base, predictions, batch_rows):
    live, candidate = predictions
    found = shadow(spec_of(place, base, batch_rows=batch_rows), catalog())
    is_predicted = pc.is_valid(live.column("kernel"))
    assert found.rows == pc.sum(is_predicted).as_py()
    assert found.not_predicted == len(live) - found.rows
    for change in found.changes:
        if change.domain == "pooled":
            both = [t.filter(is_predicted).column(f"p.{change.task}") for t in (candidate, live)]
            assert change.mean == pytest.approx(pc.mean(pc.subtract(*both)).as_py(), abs=1e-15)
    for row in found.moved:
        index = live.column("id").to_pylist().index(row.id)
        assert live.column(f"p.{row.task}")[index].as_py() == row.live
        assert candidate.column(f"p.{row.task}")[index].as_py() == row.candidate


def test_without_live_kernels_the_candidate_is_compared_with_the_base(place, base, predictions):
    found = shadow(spec_of(place, base, live=None), catalog())
    assert found.live == "base"
    _, candidate = predictions
    by_base = candidate.filter(pc.equal(candidate.column("kernel").cast("string"), "base"))
    assert found.other_kernel == found.rows - len(by_base)
    by_kernel = {c.domain: c.candidate_kernel for c in found.changes}
    assert by_kernel.pop("pooled") is None, "rows have several kernels"
    for domain, kernel in by_kernel.items():
        rows = candidate.filter(pc.equal(candidate.column("domain"), domain))
        assert set(rows.column("kernel").cast("string").to_pylist()) - {None} == {kernel}


def test_a_share_replays_some_rows_and_a_larger_one_the_same_and_more(place, base):
    def rows(share):
        found = shadow(spec_of(place, base, share=share, moved=999), catalog())
        return {row.row for row in found.moved}

    assert 0 < len(rows(0.3)) < len(rows(0.6)) < len(rows(1.0))
    assert rows(0.3) < rows(0.6) < rows(1.0)


def test_a_condition_and_a_split_choose_rows(place, base):
    some = shadow(spec_of(place, base, where=[f"region={HANGZHOU}"]), catalog())
    whole = shadow(spec_of(place, base, split="test"), catalog())
    assert 0 < some.rows < whole.rows
    assert all(c.domain.startswith("region=hangzhou") or c.domain == "pooled" for c in some.changes)


def test_labels_are_compared_where_the_log_has_them(place, base):
    with_labels = shadow(spec_of(place, base), catalog())
    without = shadow(spec_of(place, base, labels=False), catalog())
    pooled = {c.task: c for c in with_labels.changes if c.domain == "pooled"}
    assert pooled["ctr"].labelled > 0
    assert pooled["ctr"].delta_auc == pytest.approx(
        pooled["ctr"].candidate_auc - pooled["ctr"].live_auc
    )
    assert all(c.labelled == 0 and c.live_auc is None for c in without.changes)
    assert [c.mean for c in without.changes] == [c.mean for c in with_labels.changes]


def test_a_split_that_is_not_declared_is_named(place, base):
    with pytest.raises(BadRequest, match=r"split=gate.* declares test"):
        shadow(spec_of(place, base, split="gate"), catalog())


def test_rows_are_chosen_by_a_split_or_by_conditions_not_by_both(place, base):
    with pytest.raises(ValidationError, match="give one of them"):
        spec_of(place, base, split="test", where=["region=a"])
    with pytest.raises(ValidationError, match="give one of them"):
        spec_of(place, base, split="test", share=0.5)


def change(**changes):
    fields = {
        "domain": "a", "task": "ctr", "rows": 500, "mean": -0.02, "mean_absolute": 0.03,
        "quantiles": {}, "rank_correlation": 0.9, "groups": 9, "labelled": 300, "positives": 30,
        "delta_auc": -0.01, "candidate_calibration": 0.8,
    }  # fmt: skip
    return ScoreChange.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("limit", "holds", "fails", "seen"),
    [
        ("mean_change", 0.021, 0.019, 0.02),
        ("rank_correlation", 0.89, 0.91, 0.9),
        ("auc_loss", 0.011, 0.009, 0.01),
        ("calibration", 0.21, 0.19, 0.2),
        ("latency", 1.3, 1.1, 1.2),
    ],
)
def test_a_limit_holds_up_to_its_value(limit, holds, fails, seen):
    assert exceeded_limits([change()], 1.2, ShadowLimits(**{limit: holds})) == []
    (found,) = exceeded_limits([change()], 1.2, ShadowLimits(**{limit: fails}))
    assert (found.limit, found.allowed) == (limit, fails)
    assert found.seen == pytest.approx(seen)


def test_no_limit_is_looked_at_where_rows_are_few_or_a_value_is_missing():
    limits = ShadowLimits(mean_change=0.0, rank_correlation=1, auc_loss=0, calibration=0)
    assert len(exceeded_limits([change()], 1.0, limits)) == 4
    few = exceeded_limits([change(labelled=99)], 1.0, limits)
    assert {found.limit for found in few} == {"mean_change", "rank_correlation"}
    nothing = {"rank_correlation": None, "delta_auc": None, "candidate_calibration": None}
    assert [e.limit for e in exceeded_limits([change(**nothing)], 1.0, limits)] == ["mean_change"]
    assert exceeded_limits([change(rows=99, labelled=99)], 1.0, limits) == []
