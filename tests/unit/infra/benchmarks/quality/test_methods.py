"""Every method learns from a window, predicts each row of a slice, and starts at the base."""

import numpy as np
import pytest

from iak.pipeline.process import process_group
from infra.benchmarks.quality.judge import selection_loss
from infra.benchmarks.quality.logs import open_separated
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.setup import MethodSetup, Slice, train_base
from infra.benchmarks.quality.space import trial_settings
from infra.benchmarks.specs import BenchQualitySpec

pytestmark = [
    pytest.mark.slow,
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
