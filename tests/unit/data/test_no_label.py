"""Why a log has no label, and what to do."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.log_sample import read_sample
from iak.pipeline.data.no_label import explain_no_label
from iak.pipeline.errors import BadLog
from tests.unit.data.shop import shop, write


def refused(root):
    sample = read_sample(str(root), rows=10_000)
    with pytest.raises(BadLog) as refusal:
        guess_catalog(sample)
    assert str(refusal.value) == explain_no_label(sample)
    return str(refusal.value)


def test_a_list_of_structs_is_named_with_the_columns_that_its_rows_would_have(tmp_path):
    events = pa.array([[{"aid": n, "type": "clicks"}] for n in range(200)])
    message = refused(write(tmp_path, pa.table({"session": np.arange(200), "events": events})))
    assert message.startswith(
        "events has many rows in one, a list of structs: write one row for each, with the columns "
        "aid, session, type (polars: .explode('events').unnest('events'))."
    )


def test_a_map_is_named(tmp_path):
    counts = pa.array([[("a", n)] for n in range(200)], pa.map_(pa.string(), pa.int64()))
    message = refused(write(tmp_path, pa.table({"session": np.arange(200), "counts": counts})))
    assert message.startswith("counts has many values in a row: write one row for each of them.")


@pytest.mark.parametrize("is_text", [True, False])
def test_lists_of_one_length_in_each_row_are_rows(is_text, tmp_path):
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 9, 300)
    others = draw.integers(2, 9, 300)

    def lists(counts, values):
        drawn = [draw.integers(0, values, count).tolist() for count in counts]
        return [",".join(map(str, own)) for own in drawn] if is_text else drawn

    columns = {
        "seen": lists(lengths, 900),
        "labels": lists(lengths, 2),
        "past_items": lists(others, 900),
        "past_times": lists(others, 900),
        "size": [[0.5, 0.5]] * 300,
    }
    message = refused(write(tmp_path, pa.table(columns)))
    assert message.startswith("labels, seen are lists of one length in each row")
    assert ".explode(['seen', 'labels'])" in message
    assert ("split the texts" in message) == is_text
    assert "past_items are" not in message
    rest = pa.table(columns).drop_columns(["seen", "labels"])
    assert refused(write(tmp_path, rest)).startswith("past_items, past_times are lists")


def test_a_text_file_that_was_read_with_another_separator_is_named(tmp_path):
    table = pa.table({"sessionId;userId;itemId": [f"{n};NA;{n % 7}" for n in range(200)]})
    assert "was text with ';' between its values" in refused(write(tmp_path, table))


def test_the_tables_below_a_folder_are_told_apart(tmp_path):
    for day in range(3):
        write(tmp_path, shop(seed=day), folder="shop/events", name=f"{day}.parquet")
    write(tmp_path, pa.table({"item_id": [1, 2], "size": [1.5, 2.5]}), name="items.parquet")
    message = refused(tmp_path)
    assert message.startswith("2 tables of other columns lie below this folder: shop/events, 3")
    assert "items.parquet (item_id, size). Give the folder of one of them" in message
