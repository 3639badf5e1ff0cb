"""Statistics that a base reads: standardised, published with it, refused where they are lost."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data import features
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.fresh_keys import fresh_columns
from iak.pipeline.data.vocabulary import fit, schema_hash
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.fresh.base_numbers import fit_base_statistics, read_base_statistics
from iak.pipeline.fresh.state import STATISTICS
from iak.schemas.log import SplitSpec
from tests.unit.fresh.small import drawn, raw_of, state_of, undated_catalog

FRESH = (
    {"keys": ["item_id"], "use": "base"},
    {"kind": "co_occurrence", "pair": ["item_id", "hist"], "last": 3, "use": "base"},
    {"keys": ["scene"]},
)
CATALOG = undated_catalog(fresh=FRESH)
ROWS = drawn(400)
NUMBERS = 12
"""Log-odds and rows of two rates of an item and of it by region, and four numbers of a pair."""


def fitted(rows=ROWS):
    catalog, raw = CATALOG.counting("base"), raw_of(rows)
    state = state_of([rows], catalog, None)
    return fit_base_statistics(state, catalog, [(raw.rows, raw.identity)])


def encoded(rows, encoding, **settings):
    raw = raw_of(rows)
    return features.encode(
        raw.rows, identity=raw.identity, catalog=CATALOG, encoding=encoding, **settings
    )


@pytest.fixture(scope="module")
def encoding():
    raw = raw_of(ROWS)
    learned = fit([(raw.rows, raw.identity)], CATALOG)
    return Encoding(
        vocabularies=learned.vocabularies, statistics=learned.statistics,
        boundaries=learned.boundaries, kinds=learned.kinds, fresh=fitted(),
    )  # fmt: skip


def test_each_specification_is_read_by_one_of_kernel_and_base():
    assert len(CATALOG.number_names) == len(CATALOG.numeric) + NUMBERS
    assert len(CATALOG.fresh_names) == 8
    assert {spec.use for spec in CATALOG.counting("kernel").fresh} == {"kernel"}


def test_statistics_have_mean_0_and_deviation_1_over_the_rows_of_training():
    raw, base = raw_of(ROWS), fitted()
    s_BS = base.of(pa.table(fresh_columns(raw.rows, raw.identity, CATALOG)))
    assert s_BS.shape == (400, NUMBERS)
    assert s_BS.mean(0) == pytest.approx(np.zeros(NUMBERS), abs=1e-4)
    assert s_BS.std(0) == pytest.approx(np.ones(NUMBERS), abs=1e-3)


def test_a_base_reads_them_after_its_numeric_features(encoding):
    rows = encoded(ROWS, encoding)
    numbers_BN = to_batch(rows, CATALOG).numeric_BN.numpy()
    raw = raw_of(ROWS)
    expected = encoding.fresh.of(pa.table(fresh_columns(raw.rows, raw.identity, CATALOG)))
    assert np.array_equal(numbers_BN[:, len(CATALOG.numeric) :], expected)
    nothing = features.no_rows(CATALOG)
    assert set(nothing.schema.names) == set(rows.schema.names)
    alone_1N = to_batch(encoded(ROWS.slice(7, 1), encoding), CATALOG).numeric_BN.numpy()
    assert np.array_equal(alone_1N, numbers_BN[7:8]), "a row is encoded by itself"


def test_rows_that_are_scored_have_the_same_numbers_and_need_no_task(encoding):
    scored = CATALOG.to_score(SplitSpec())
    assert scored.number_names == CATALOG.number_names
    raw = raw_of(ROWS)
    rows = features.encode(
        raw.rows, identity=raw.identity, catalog=scored, encoding=encoding, is_scored=True
    )
    labelled_BN = to_batch(encoded(ROWS, encoding), CATALOG).numeric_BN
    assert np.array_equal(to_batch(rows, scored).numeric_BN, labelled_BN)


def test_workers_get_them_with_the_encoding(encoding):
    again = pickle.loads(pickle.dumps(encoding))
    numbers = [to_batch(encoded(ROWS, e), CATALOG).numeric_BN.numpy() for e in (again, encoding)]
    assert np.array_equal(*numbers)


def test_they_are_read_back_and_are_part_of_what_the_base_means(encoding, tmp_path):
    encoding.fresh.write(tmp_path)
    again = read_base_statistics(tmp_path, CATALOG)
    assert again.id == encoding.fresh.id
    assert read_base_statistics(tmp_path, CATALOG.counting("kernel")) is None
    hashed = schema_hash(CATALOG, encoding)
    other = fitted(drawn(400, seed=3))
    changed = Encoding(
        vocabularies=encoding.vocabularies, statistics=encoding.statistics,
        boundaries=encoding.boundaries, kinds=encoding.kinds, fresh=other,
    )  # fmt: skip
    assert schema_hash(CATALOG, changed) != hashed
    assert schema_hash(undated_catalog(fresh=FRESH[:1]), encoding) != hashed
    for_kernels = undated_catalog(fresh=(*FRESH[:2], {"keys": ["user_id"]}))
    assert schema_hash(for_kernels, encoding) == hashed, "kernels may read others tomorrow"


@pytest.mark.parametrize("name", [STATISTICS, "statistics.json"])
def test_a_missing_file_is_refused_and_never_zero(encoding, tmp_path, name):
    encoding.fresh.write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(Corrupt, match="never taken as zero"):
        read_base_statistics(tmp_path, CATALOG)


def test_statistics_of_another_base_are_refused(encoding, tmp_path):
    encoding.fresh.write(tmp_path)
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "0" * 64}))
    with pytest.raises(Corrupt, match="Restore the file"):
        read_base_statistics(tmp_path, CATALOG)
    with pytest.raises((BadRequest, Corrupt)):
        read_base_statistics(tmp_path, undated_catalog(fresh=FRESH[:1]))
