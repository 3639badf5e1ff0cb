"""Keys of fresh statistics: the same for an item and in a history, with a day or a fold each."""

import numpy as np
import pyarrow as pa

from iak.pipeline.data.features import no_rows
from iak.pipeline.data.fresh_keys import FOLDS, NO_DAY, PERIOD, fresh_columns, fresh_types
from tests.builders import batch_of, small_catalog
from tests.unit.fresh.small import LAST, dated_catalog, drawn, keys_of, undated_catalog

ROWS = drawn(200)


def changed(rows, **columns):
    return batch_of(dict(zip(rows.schema.names, rows.columns, strict=True)) | columns)


def test_a_catalogue_without_statistics_has_no_further_column():
    assert fresh_columns(ROWS, np.zeros(200, np.uint64), small_catalog()) == {}
    assert not [n for n in no_rows(small_catalog()).schema.names if n.startswith("s.")]


def test_the_columns_have_the_types_of_a_batch_without_rows():
    for catalog in (dated_catalog(), undated_catalog()):
        keys = keys_of(ROWS, catalog)
        types = {name: keys.schema.field(name).type for name in keys.column_names}
        assert types == fresh_types(catalog)
        assert set(types) < set(no_rows(catalog).schema.names)


def test_an_item_has_one_key_as_a_column_and_in_a_history():
    items = ROWS.column("item_id").to_pylist()
    history = pa.array([[item] for item in items], pa.list_(pa.int64()))
    keys = keys_of(changed(ROWS, hist=history), dated_catalog())
    in_history = keys.column("s.list.hist.3").combine_chunks().values
    assert keys.column("s.key.item_id").to_pylist() == in_history.to_pylist()


def test_columns_together_have_another_key_than_in_another_order_or_alone():
    catalog = dated_catalog(fresh=[{"keys": ["user_id", "scene"]}, {"keys": ["scene", "user_id"]}])
    keys = keys_of(ROWS, catalog)
    names = [n for n in keys.column_names if n.startswith("s.key.")]
    stacked = np.stack([keys.column(name).to_numpy() for name in names])
    assert len(names) == 6
    assert len(np.unique(stacked[:, 0])) == 6


def test_a_day_is_that_of_the_folder_or_of_the_event():
    catalog = dated_catalog()
    assert keys_of(ROWS, catalog).column(PERIOD).to_numpy().max() == LAST
    without = changed(ROWS, dt=pa.array([None] * 200, pa.string()))
    assert set(keys_of(without, catalog).column(PERIOD).to_pylist()) == {NO_DAY}
    timed = dated_catalog(log__date_key=None)
    days = keys_of(ROWS, timed).column(PERIOD).to_numpy()
    assert np.array_equal(days, ROWS.column("event_time").to_numpy() // 86_400)


def test_a_fold_follows_from_the_row_or_from_what_it_is_sliced_by():
    folds = keys_of(ROWS, undated_catalog()).column(PERIOD).to_numpy()
    assert set(folds.tolist()) == set(range(FOLDS))
    by_user = undated_catalog(log__slice_by="user_id")
    folds = keys_of(ROWS, by_user).column(PERIOD).to_pylist()
    pairs = set(zip(ROWS.column("user_id").to_pylist(), folds, strict=True))
    assert len(pairs) == len({user for user, _ in pairs})
