"""What a person is told to look at, and why a log has no label."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.guess_labels import guess_labels
from iak.pipeline.data.guess_notes import notes_on
from iak.pipeline.data.log_sample import read_sample
from tests.unit.data.shop import shop, write


def notes(root):
    return guess_catalog(read_sample(str(root), rows=10_000)).notes


@pytest.mark.parametrize("names", [("_c0", "_c1", "_c2"), ("1", "2268318", "pv")])
def test_columns_without_names_are_noted(names, tmp_path):
    draw = np.random.default_rng(0)
    columns = draw.integers(0, 40, 900), draw.integers(0, 99, 900), draw.choice(["pv", "buy"], 900)
    guess = guess_catalog(read_sample(str(write(tmp_path, table(names, columns))), rows=900))
    assert guess.tasks[0].column == names[2]
    (note,) = [note for note in guess.notes if "name them (user_id" in note]
    what = "have no names" if names[0] == "_c0" else "have values for names"
    assert note.startswith(f"columns {what}")


def table(names, columns):
    return pa.table(dict(zip(names, columns, strict=True)))


def test_names_that_differ_in_their_case_alone_are_noted(tmp_path):
    for number, name in enumerate(("scene", "Scene")):
        table = shop(seed=number)
        renamed = [name if own == "scene" else own for own in table.column_names]
        write(tmp_path, table.rename_columns(renamed), name=f"{number}.parquet")
    assert any("Scene and scene differ in upper and lower case alone" in n for n in notes(tmp_path))


def test_ids_that_are_floats_in_some_files_are_noted(tmp_path):
    for number, kind in enumerate((pa.int64(), pa.int64(), pa.float64())):
        table = shop(seed=number)
        table = table.set_column(3, "item_id", table.column("item_id").cast(kind))
        price = table.column("price").cast(kind, safe=False)
        write(tmp_path, table.set_column(5, "price", price), name=f"{number}.parquet")
    (note,) = [note for note in notes(tmp_path) if "floats" in note]
    assert note.startswith(
        "item_id is whole numbers, but floats in 1 of 3 files: files with floats"
    )


@pytest.mark.parametrize("other", ["new/a.parquet", "New.parquet"])
def test_files_named_train_and_test_beside_others_are_noted(other, tmp_path):
    for number, name in enumerate(("train.parquet", "Test.parquet", other)):
        folder, _, file = name.rpartition("/")
        write(tmp_path, shop(seed=number), folder=folder, name=file)
    (note,) = [note for note in notes(tmp_path) if "one log" in note]
    assert 'write partition_keys = ["split"] and folder_names = "value"' in note
    assert not [
        n for n in notes(write(tmp_path / "b", shop(), name="train.parquet")) if "one log" in n
    ]


def test_folders_of_days_in_six_digits_are_noted_and_name_no_domain(tmp_path):
    for day in range(10, 16):
        write(tmp_path, shop(300, seed=day), folder=f"dt=2010{day}")
    guess = guess_catalog(read_sample(str(tmp_path), rows=10_000))
    assert guess.date_key is None
    assert "dt" not in guess.domain_keys
    assert any("201013 is a day as yymmdd" in n and "20201013" in n for n in guess.notes)


def test_months_of_six_digits_say_how_they_are_read(tmp_path):
    for month in range(9, 13):
        table = shop(300, seed=month, event_time=None)
        write(tmp_path, table, folder=f"dt=2010{month:02d}")
    guess = guess_catalog(read_sample(str(tmp_path), rows=10_000))
    assert "(201009 is read as 2010-09-30)" in guess.date_key.why


@pytest.mark.parametrize(("nobody", "share"), [(-1, 0.3), (0, 0.2)])
def test_an_id_that_stands_for_nobody_is_noted(nobody, share, tmp_path):
    draw = np.random.default_rng(0)
    users = draw.integers(1, 150, 2_000)
    write(tmp_path, shop(user_id=np.where(draw.random(2_000) < share, nobody, users)))
    assert any(
        note.startswith(f"user_id is {nobody} in {share:.0%}"[:-2]) for note in notes(tmp_path)
    )
    write(tmp_path, shop(user_id=users))
    assert not any("stands for nobody" in note for note in notes(tmp_path))


def test_days_without_a_year_are_noted(tmp_path):
    write(tmp_path, shop(event_time=None, time_stamp=501 + np.arange(2_000) % 30))
    assert any("time_stamp is a month and a day without a year" in n for n in notes(tmp_path))


def test_a_label_that_no_name_tells_is_noted(tmp_path):
    flag = np.random.default_rng(0).integers(0, 2, 2_000)
    write(tmp_path, shop(label_click=None, label_order=None, c9=flag))
    sample = read_sample(str(tmp_path), rows=10_000)
    labels = guess_labels(sample.rows, is_named=False)
    texts = notes_on(sample, labels, (), None, (), ["scene"], (), is_dated=True)
    assert any(text.startswith("c9 is taken for a label by its two values alone") for text in texts)


def test_folders_that_name_no_column_are_noted(tmp_path):
    for folder in ("men", "women"):
        write(tmp_path, shop(seed=len(folder)), folder=f"bts/{folder}")
    (note,) = [note for note in notes(tmp_path) if "name no column" in note]
    assert note.startswith("folders men, women name no column, and all are read as one log")
    assert not [n for n in notes(write(tmp_path / "one", shop(), folder="x")) if "no column" in n]


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (("week_07", "week_08", "week_09"), None),  # the splits follow them
        (("01082", "01083", "01084"), "day=01082"),
        (("log_0_20180715", "log_0_20180716", "log_1_20180717"), None),  # as dates
        (("0000", "0001", "0002"), None),
        (("part-00007", "part-00008", "part-00009"), None),
        (("week_07", "week_08", "items"), None),
    ],
)
def test_files_that_are_numbered_by_day_are_noted(files, folder, tmp_path):
    for seed, name in enumerate(files):
        write(tmp_path / "a", shop(400, seed, event_time=None), name=f"{name}.parquet")
        write(tmp_path / "b", shop(400, seed), name=f"{name}.parquet")
    found = [note for note in notes(tmp_path / "a") if "files are numbered" in note]
    assert [f"lay each into a folder {folder}," in note for note in found] == [True] * bool(folder)
    assert not [note for note in notes(tmp_path / "b") if "files are numbered" in note]


def test_a_list_of_structs_beside_a_label_is_left_out_with_the_remedy(tmp_path):
    events = pa.array([[{"aid": n, "ts": n}] for n in range(2_000)])
    write(tmp_path, shop(events=events))
    left = {g.column: g.why for g in guess_catalog(read_sample(str(tmp_path), rows=900)).left_out}
    assert left["events"] == (
        "a list of structs; write each field as a list of its own (events.aid, events.ts)"
    )
