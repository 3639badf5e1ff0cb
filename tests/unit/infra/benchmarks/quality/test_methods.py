"""Every method learns from a window, predicts each row of a slice, and starts at the base."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from iak.pipeline.process import process_group
from iak.schemas.domain import POOLED
from iak.schemas.job import FinetuneSpec
from infra.benchmarks.quality.judge import selection_loss
from infra.benchmarks.quality.logs import open_separated
from infra.benchmarks.quality.methods import tuned_to_the_end, with_more_epochs
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.setup import MethodSetup, Slice, train_base
from infra.benchmarks.quality.space import trial_settings
from infra.benchmarks.specs import BenchQualitySpec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]
SMALL = {"planted_rows": 6_000, "planted_days": 12, "planted_users": 300, "planted_regions": 2}
KEEP_THE_BEST = ("bottleneck", "head", "lora", "dense", "continued", "continued_without_state")
"""Methods whose start is the base in fp32, and a candidate on validation rows."""


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A small log, its base, and what the base predicts on validation and test rows."""
    folder = tmp_path_factory.mktemp("quality")
    log = open_separated("planted", BenchQualitySpec(cache=folder, **SMALL))
    with process_group(0, 1, backend="gloo", threads=1):
        trained = train_base(log.window, log.window.catalog, folder / "base", seed=0)
        setup = MethodSetup(
            window=log.window, base=trained.base, seed=0, scratch=folder / "scratch"
        )
        slices = {"valid": Slice(log.window, "valid"), "test": Slice(log.test, "test")}
        base = {name: setup.predicted(rows, base=setup.base) for name, rows in slices.items()}
        yield setup, slices, base


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_predicts_every_row_and_keeps_its_best_state(name, played):
    setup, slices, base = played
    method = METHODS[name]
    searched = METHODS[method.searched_as or name]
    presets = setup.catalog.presets.get(searched.verb, {})
    hyper = trial_settings(searched.space(presets), name=name, trial=0, seed=0)
    fitted = method.fit(setup, hyper)
    predicted = {split: fitted.predict(rows) for split, rows in slices.items()}
    for split, probabilities in predicted.items():
        assert {*probabilities} == {*base[split]}
        for task, p in probabilities.items():
            assert p.shape == base[split][task].shape
            assert np.all((p > 0) & (p < 1))
    rows = setup.rows(slices["valid"])
    losses = [selection_loss(rows, p["valid"], setup.catalog) for p in (predicted, base)]
    if name == "base":
        assert losses[0] == losses[1]
    if name in KEEP_THE_BEST:
        assert losses[0] <= losses[1] + 1e-6


FIRST = FinetuneSpec(
    catalog="planted", data_root="log", base=Path("base"), run_dir=Path("night"), seed=0
)


@pytest.mark.parametrize(
    ("losses", "capped", "epochs", "kept", "at_cap"),
    [
        ([3.0], [()], [2], 0, ()),
        ([3.0, 2.0], [("a",), ()], [2, 4], 1, ()),
        ([3.0, 3.0], [("a",), ("a",)], [2, 4], 0, ()),
        ([3.0, 2.0, 2.5], [("a",), ("a",), ("a",)], [2, 4, 8], 1, ()),
        ([3.0, 2.0, 1.0], [("a",), ("a",), ("b",)], [2, 4, 8], 2, ("b",)),
    ],
)
def test_a_night_at_its_cap_is_repeated_until_that_helps_no_more(
    losses, capped, epochs, kept, at_cap
):
    nights, asked = [], []

    def tune(spec):
        asked.append(spec)
        tuning = SimpleNamespace(stopped_at_cap=capped[len(nights)])
        nights.append(SimpleNamespace(tuning=tuning, loss=losses[len(nights)]))
        return nights[-1]

    night, left = tuned_to_the_end(FIRST, tune, lambda night: night.loss)
    assert (nights.index(night), left) == (kept, at_cap)
    assert [spec.domain.max_epochs for spec in asked] == epochs
    assert len({spec.run_dir for spec in asked}) == len(asked)


@pytest.mark.parametrize(
    ("capped", "pooled", "domain"), [((POOLED,), 2, 1), (("a", "b"), 1, 2), (("a", POOLED), 2, 2)]
)
def test_more_epochs_go_to_the_levels_with_kernels_at_their_cap(capped, pooled, domain):
    longer = with_more_epochs(FIRST, capped)
    for stage, before, factor in (
        (longer.pooled, FIRST.pooled, pooled),
        (longer.domain, FIRST.domain, domain),
    ):
        assert stage.max_epochs == factor * before.max_epochs
        assert stage.patience == factor * before.patience
