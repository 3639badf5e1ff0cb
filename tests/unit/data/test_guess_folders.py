"""Which partition keys the names of a log's folders and files tell."""

import pytest

from iak.pipeline.data.guess_folders import FolderGuess, guess_folders, part_of

KEYS = {
    "no folder": ([""], ()),
    "days": (["dt=2026-10-01", "dt=2026-10-02"], ("dt",)),
    "two keys": (["r=a/dt=2026-10-01", "r=b/dt=2026-10-01"], ("r", "dt")),
    "what follows says nothing": (["r=a/x/1", "r=b/y/2"], ("r",)),
    "hidden ones": (["r=a", "r=b", "_delta_log", ".hidden"], ("r",)),
    "a date of three": (["year=2026/month=1/day=2"], ("year/month/day",)),
}
VALUES = {
    "dates": (["2026-10-01/a", "2026-10-02/a"], ("dt",)),
    "dates and hours": (["20261001/00/a", "20261002/00/a"], ("dt",)),
    "files of dates": (["2026-10-01", "2026-10-02"], ("dt",)),
    "named files of dates": (["log_20261001", "log_20261002"], ("dt",)),
    "named folders of dates": (["nl/shop-2026-10-01/a", "be/shop-2026-10-02/a"], ("folder", "dt")),
    "dates of two tables": (["users_20261001", "log_20261001", "log_20261002"], ()),
    "a date of three": (["2026/10/01/a", "2026/10/02/a"], ("year/month/day",)),
    "months": (["2026/10/a", "2026/11/a"], ("year/month",)),
    "weeks of two years": (["2026-W53/a", "2027-W01/a"], ("dt",)),
    "parts": (["train/a", "test/a"], ("split",)),
    "files of parts": (["train", "dev", "TEST"], ("split",)),
    "numbered files of parts": (["train-00000-of-00002", "test-00000-of-00001"], ("split",)),
    "parts of a named set": (["set_train/a", "set_dev/a", "set_test/a"], ("split",)),
    "parts of each market": (["nl/train/a", "es/test/a"], ("folder", "split")),
    "days of each market": (["nl/2026-10-01", "es/2026-10-02"], ("folder", "dt")),
    "what follows a key": (["r=a/2026/10/a", "r=b/2026/11/a"], ("r", "year/month")),
    "files of days": (["day_0", "day_1", "day_2"], ("day_number",)),
    "numbered files of days": (["part_day_9", "part_day_10", "part_day_11"], ("day_number",)),
    "folders of days": (["d1/a", "D2/a", "d3/part-1"], ("day_number",)),
    "weeks of each market": (["r=a/week-01", "r=a/week-02", "r=b/week-03"], ("r", "week_number")),
    "two days": (["day_0", "day_1"], ()),
    "days and others": (["day_0", "day_1", "day_2", "items"], ()),
    "days of two tables": (["a_day_0", "a_day_1", "b_day_2"], ()),
    "one date": (["2026-10-01/a", "2026-10-01/b"], ()),
    "markets": (["nl/a", "es/a"], ()),
    "numbers": (["part-0", "part-1"], ()),
    "training rows alone": (["train/a", "train/b"], ()),
    "another table beside parts": (["train/a", "test/a", "items/a"], ()),
    "at another depth": (["train/a", "more/test/a"], ()),
}


@pytest.mark.parametrize(("folders", "keys"), KEYS.values(), ids=KEYS)
def test_keys_are_read_off_folder_names(folders, keys, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "part-0.parquet").touch()
    assert guess_folders(str(tmp_path)) == FolderGuess(keys=keys)


@pytest.mark.parametrize(("files", "keys"), VALUES.values(), ids=VALUES)
def test_values_without_keys_tell_dates_and_parts(files, keys, tmp_path):
    for file in [*files, "README.md", "manifest.json"]:
        path = tmp_path / (file if "." in file else f"{file}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert guess_folders(str(tmp_path)) == FolderGuess(
        keys=keys, names="value" if keys else "key=value"
    )


def test_values_below_a_key_do_not_say_it_once_more(tmp_path):
    for day in ("2026-10-01", "2026-10-02"):
        (tmp_path / f"dt={day}").mkdir()
        (tmp_path / f"dt={day}" / f"{day}.parquet").touch()
    assert guess_folders(str(tmp_path)) == FolderGuess(keys=("dt",))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("MINDsmall_dev", "valid"),
        ("shop-TEST", "test"),
        ("train_test", None),
        ("latest", None),
        ("2026-10-01", None),
    ],
)
def test_a_word_of_a_name_says_its_part(name, part):
    assert part_of(name) == part
