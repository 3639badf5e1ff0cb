"""Statistics beside activations: counted once a file, standardised, and what an encoder reads."""

from datetime import date, timedelta

import numpy as np
import pytest
import torch

from iak.pipeline.activations import statistics as room
from iak.pipeline.activations.cache import ActivationCache
from iak.pipeline.activations.standardizer import KernelInputs
from iak.pipeline.activations.statistics import (
    RowStatistics,
    StatisticsStandard,
    count_past,
    fit_statistics_standard,
)
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.view import open_log
from iak.pipeline.fresh.past import past_of
from iak.pipeline.process import Worker
from tests.builders import write_log
from tests.unit.fresh.small import dated_catalog, drawn, keys_of, state_of, statistics

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
FIRST = date(2026, 10, 1)
FRESH = [{"keys": ["item_id"], "windows": ["P1D", "P2D"]}]


def night(root, last):
    """The past of a night whose tuning window is the last day, of a log of nine days."""
    splits = {"tune": {"dates": [str(last), str(last)]}}
    catalog = dated_catalog(fresh=FRESH, splits=splits)
    view = open_log(catalog, str(root), wanted=["tune"])
    return past_of(view, KeptContents(None)), catalog


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("log")
    layout = [
        (region, str(FIRST + timedelta(days=day)), [8, 8])
        for region in ("a", "b")
        for day in range(9)
    ]
    write_log(root / "events", layout)
    return root


def test_a_night_counts_its_new_day_alone_and_equals_a_count_of_everything(
    root, tmp_path, monkeypatch
):
    counted = []

    def count_file(selection, file, catalog):
        counted.append(selection.snapshot.files[file].path)
        return original(selection, file, catalog)

    original = room.count_file
    monkeypatch.setattr(room, "count_file", count_file)
    for number, day in enumerate(FIRST + timedelta(days=d) for d in (5, 6, 7)):
        past, catalog = night(root, day)
        store = ActivationCache(tmp_path)
        counted.clear()
        state = count_past(past, catalog, store, ALONE)
        store.close()
        if number:  # the files of two regions on one day
            assert [f"dt={day}" in path for path in counted] == [True, True]
        assert state.id == count_past(past, catalog, None, ALONE).id


def test_counts_survive_the_cache(root, tmp_path):
    past, catalog = night(root, FIRST + timedelta(days=5))
    store = ActivationCache(tmp_path)
    first = count_past(past, catalog, store, ALONE)
    store.close()
    assert count_past(past, catalog, ActivationCache(tmp_path), ALONE).id == first.id


class Stored:
    """Activations of two units."""

    def of(self, index_B):
        h_BH = index_B[:, None].float()
        return KernelInputs(h_BH=h_BH, a_BA=torch.cat([h_BH, h_BH], dim=1).bfloat16())


def test_an_encoder_reads_activations_and_standardised_statistics():
    catalog, rows = dated_catalog(), drawn(90)
    state, keys = state_of([rows], catalog), keys_of(rows, catalog)
    standard = fit_statistics_standard(keys, state, catalog, ALONE)
    beside = RowStatistics(state=state, catalog=catalog, standard=standard)
    read = beside.beside(Stored(), keys).of(torch.tensor([4, 2]))
    width = len(catalog.fresh_names)
    assert read.h_BH.tolist() == [[4.0], [2.0]]
    assert read.a_BA.shape == (2, 2 + width)
    assert read.a_BA.dtype == torch.bfloat16
    s_nS = standard.of(torch.from_numpy(statistics(rows, state, catalog)))
    torch.testing.assert_close(s_nS.mean(0), torch.zeros(width), atol=1e-4, rtol=0)
    deviation_S = s_nS.std(0, correction=0)
    is_constant_S = np.ptp(statistics(rows, state, catalog), axis=0) == 0
    assert torch.allclose(deviation_S[~is_constant_S], torch.ones(1), atol=1e-3)
    assert (read.a_BA[0, 2:] == s_nS[4].bfloat16()).all()


def test_a_number_that_never_changes_is_not_scaled():
    catalog = dated_catalog(fresh=[{"keys": ["item_id"]}])
    rows = drawn(1)
    standard = fit_statistics_standard(
        keys_of(rows, catalog), state_of([rows], catalog), catalog, ALONE
    )
    assert isinstance(standard, StatisticsStandard)
    assert standard.scale_S.tolist() == [1.0] * len(catalog.fresh_names)
