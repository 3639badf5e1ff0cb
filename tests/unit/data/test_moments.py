"""That several workers measure a number as one does, to the last bit."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.collectives import gathered
from iak.pipeline.data import moments
from iak.pipeline.data.moments import Moments, merged, true_first
from tests.unit.workers import on_threads

VALUES = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from(
    [float("nan"), float("inf"), 1e38, 0.1]
)


def measured(batches, first=0):
    own = Moments(first=first)
    for batch in batches:
        own.add(np.array(batch, np.float64))
    return own


def everything(own):
    """All that an encoding takes of a number, with every bit."""
    return (
        own.count,
        np.array([own.mean, own.squares, *own.statistics()]).tobytes(),
        own.stride,
        own.sample.tobytes(),
        own.quantiles(4).tobytes(),
    )


@given(
    batches=st.lists(st.lists(VALUES, max_size=12), max_size=8),
    cuts=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    sample=st.integers(1, 30),
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_several_workers_measure_what_one_does(batches, cuts, sample):
    ends = [0, *sorted(min(cut, len(batches)) for cut in cuts), len(batches)]
    shares = [batches[start:end] for start, end in pairwise(ends)]
    rows_before = np.cumsum([0, *(sum(map(len, share)) for share in shares)]).tolist()

    def work(worker):
        gather = partial(gathered, worker=worker)
        share = shares[worker.rank]
        own = measured(share, rows_before[worker.rank])
        first = true_first(own, worker.rank, gather)
        own = own if first is None else measured(share, first)
        return first is not None, everything(merged(own, gather))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "QUANTILE_SAMPLE", sample)
        together = on_threads(work, len(shares))
        alone = measured(batches)
        finite = np.array([v for batch in batches for v in batch if np.isfinite(v)])
        assert alone.sample.tobytes() == finite[:: alone.stride].tobytes()
        assert len({again for again, _ in together}) == 1, "all workers read again, or none"
        assert {whole for _, whole in together} == {everything(alone)}


def test_only_samples_at_other_positions_are_drawn_again(monkeypatch):
    monkeypatch.setattr(moments, "QUANTILE_SAMPLE", 5)

    def asks(batches):
        def work(worker):
            own = measured([batches[worker.rank]], 8 * worker.rank)
            return true_first(own, worker.rank, partial(gathered, worker=worker))

        return on_threads(work, 2)

    nan = float("nan")
    assert asks([[1.0] * 8, [2.0] * 8]) == [None, None]
    assert asks([[1.0] * 8, [nan] * 8]) == [None, None], "nothing follows what is missing"
    assert asks([[1.0] * 7 + [nan], [2.0] * 8]) == [0, 7]
    assert asks([[1.0] + [nan] * 7, [2.0] * 4]) == [None, None], "every value is in the sample"
