"""What init reads off folders, footers and rows of a log that nobody described."""

import uuid

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.event_dates import dates_without_key
from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.log_sample import read_sample
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.errors import BadLog
from tests.unit.data.shop import DAY, START, shop, write


def guessed(root, rows=10_000):
    return guess_catalog(read_sample(str(root), rows=rows))


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("s", lambda seconds: seconds),
        ("ms", lambda seconds: seconds * 1_000),
        ("us", lambda seconds: seconds * 1_000_000),
        ("timestamp", lambda seconds: pa.array(seconds * 10**6, pa.timestamp("us", "UTC"))),
    ],
)
def test_the_time_of_the_event_is_found_with_its_unit(unit, times, tmp_path):
    seconds = shop().column("event_time").to_numpy()
    write(tmp_path, shop(event_time=times(seconds)))
    guess = guessed(tmp_path)
    assert (guess.time.column, guess.time.unit) == ("event_time", unit)
    assert guess.splits["test"].days[1] == -1


def test_the_zone_is_the_one_in_which_times_fall_on_their_folders_dates(tmp_path):
    for day in range(4):
        local_noon = START + day * DAY - 9 * 3_600 + np.arange(500) * 170
        write(tmp_path, shop(500, event_time=local_noon), folder=f"dt=2026-10-0{day + 1}")
    guess = guessed(tmp_path)
    assert guess.date_key.column == "dt"
    assert guess.time.time_zone == "Etc/GMT-9"


def test_windows_are_cut_where_the_rows_are(tmp_path):
    for day in range(10):
        write(tmp_path, shop(100, seed=day), folder=f"region=a/dt=2026-10-{day + 1:02d}")
    guess = guessed(tmp_path)
    days = {name: cut.days for name, cut in guess.splits.items()}
    assert days["test"] == (-1, -1)
    assert days["tune"] == days["gate"] == (-3, -2)
    assert days["pretrain"] == (0, -4)
    assert guess.domain_keys == ("scene",)  # one region names no domain


def test_folders_of_year_month_day_and_hour_tell_a_time(tmp_path):
    for day in range(5):
        times = START + day * DAY + np.arange(200)
        folder = f"region=a/year=2026/month=10/day={day + 1}/hour=00"
        write(tmp_path, shop(200, event_time=times), folder=folder)
    guess = guessed(tmp_path)
    assert guess.partition_keys == ("region", "year/month/day", "hour")
    assert (guess.date_key.column, guess.time_keys) == ("year/month/day", ("hour",))
    assert guess.time.column == "event_time"


@pytest.mark.parametrize("folder", ["year=2026/month={}", "pt=2026{:02d}"])
def test_folders_of_months_tell_dates_where_no_event_time_does(folder, tmp_path):
    for month in range(1, 9):
        table = shop(300, seed=month)
        write(tmp_path / "timed", table, folder=folder.format(month))
        write(tmp_path / "bare", table.drop(["event_time"]), folder=folder.format(month))
    key = "year/month" if "year" in folder else "pt"
    bare, timed = guessed(tmp_path / "bare"), guessed(tmp_path / "timed")
    assert bare.partition_keys == timed.partition_keys == (key,)
    assert (bare.date_key.column, bare.time_keys) == (key, ())
    assert bare.splits["test"].days == (-1, -1)
    assert bare.splits["pretrain"].days[1] < -60
    assert (timed.date_key, timed.time_keys, timed.time.column) == (None, (key,), "event_time")
    assert key not in bare.domain_keys + timed.domain_keys


@pytest.mark.parametrize("folder", ["2026/10/{:02d}", "2026-10-{:02d}", "202610{:02d}/00"])
def test_dates_without_a_key_are_the_days_of_the_log(folder, tmp_path):
    for day in range(1, 5):
        write(tmp_path, shop(100, event_time=None, seed=day), folder=folder.format(day))
    guess = guessed(tmp_path)
    assert guess.partition_keys == (guess.date_key.column,)
    assert guess.splits["test"].days == (-1, -1)
    finding = dates_without_key(take_snapshot(str(tmp_path), partition_keys=()))
    assert (finding.level, finding.count) == ("warn", 4)
    assert folder.format(1).removesuffix("/00") in finding.what
    assert 'folder_names = "value"' in finding.remedy


def test_folders_that_are_no_dates_are_not_taken_for_some(tmp_path):
    for number in range(3):
        write(tmp_path, shop(100), folder=f"part{number}/0001/2026")
    assert dates_without_key(read_sample(str(tmp_path), rows=9).snapshot) is None


def test_a_split_column_is_followed_and_is_no_feature(tmp_path):
    parts = np.random.default_rng(0).choice(["train", "val", "test"], 2_000, p=[0.8, 0.1, 0.1])
    write(tmp_path, shop(event_time=None, fold=parts))
    guess = guessed(tmp_path)
    assert guess.splits["gate"].where == {"fold": ("val",)}
    assert "fold" not in {f.column for f in guess.features}


@pytest.mark.parametrize(
    "name", ["{}/a.parquet", "{}.parquet", "shop_{}/a.parquet", "{}-00000-of-00004.parquet"]
)
def test_files_and_folders_named_train_and_test_are_the_splits(name, tmp_path):
    for part in ("train", "val", "test"):
        write(tmp_path, shop(500, event_time=None), name=name.format(part))
    guess = guessed(tmp_path)
    word = "shop_{}" if name.startswith("shop") else "{}"
    assert guess.splits["gate"].where == {"split": (word.format("val"),)}
    assert guess.splits["test"].where == {"split": (word.format("test"),)}
    assert "split" not in [f.column for f in guess.features]
    assert not [note for note in guess.notes if "one log" in note]


def test_folders_of_train_and_test_are_neither_a_domain_nor_a_feature(tmp_path):
    for part in ("train", "test"):
        write(tmp_path, shop(500), folder=f"fold={part}")
    guess = guessed(tmp_path)
    assert guess.partition_keys == ("fold",)
    assert guess.splits["test"].where == {"fold": ("test",)}
    assert guess.domain_keys == ("scene",)
    assert "fold" not in [f.column for f in guess.features]


def test_users_are_domains_only_where_no_other_column_can_be(tmp_path):
    label = pa.array(np.arange(2_000) % 3 == 0)
    ids = {"user_id": np.arange(2_000) % 89, "item_id": np.arange(2_000) % 71}
    for number, columns in enumerate((ids, {"user_id": ids["user_id"]})):
        write(tmp_path / str(number), pa.table(columns | {"click": label}))
        guess = guessed(tmp_path / str(number))
        assert guess.domain_keys == (("item_id",), ("user_id",))[number]
        assert any("name a coarser column" in note for note in guess.notes)


def test_a_folder_of_one_value_is_the_domain_where_no_column_has_few(tmp_path):
    columns = {"item_id": np.arange(2_000) % 71, "click": np.arange(2_000) % 3 == 0}
    for day in range(4):
        write(tmp_path, pa.table(columns), folder=f"country=de/dt=2026-10-0{day + 1}")
    guess = guessed(tmp_path)
    assert guess.domain_keys == ("country",)
    assert "country" not in [f.column for f in guess.features]


def test_ids_in_bytes_are_features_where_they_are_text_or_uuids(tmp_path):
    ids = [uuid.UUID(int=row % 40 + 1) for row in range(500)]
    columns = {
        "device_uuid": pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([i.bytes for i in ids], pa.binary(16))
        ),
        "word": pa.array([f"w{row % 9}".encode() for row in range(500)]),
        "blob": pa.array([b"\xff" + bytes([row % 7]) for row in range(500)]),
    }
    write(tmp_path, shop(500, user_id=None, **columns))
    guess = guessed(tmp_path)
    assert {"device_uuid", "word"} <= {f.column for f in guess.features}
    assert guess.user.column == "device_uuid"
    assert "UTF-8" in {left.column: left.why for left in guess.left_out}["blob"]


def test_whole_numbers_that_a_null_turned_into_floats_are_ids(tmp_path):
    for number, kind in enumerate((pa.int64(), pa.float64())):
        items = pa.array([i % 200 if i % 9 or not number else None for i in range(1_000)])
        zones = pa.array([i % 5 if i % 7 else None for i in range(1_000)], pa.float64())
        table = shop(1_000, item_id=items.cast(kind), zone=zones)
        write(tmp_path, table, folder=f"dt=2026-10-0{number + 1}")
    guess = guessed(tmp_path)
    kinds = {feature.column: feature.kind for feature in guess.features}
    assert kinds["item_id"] == kinds["zone"] == "categorical"


def test_columns_that_no_catalogue_describes_are_named_with_the_remedy(tmp_path):
    details = pa.array([{"brand": f"b{n % 3}"} for n in range(500)])
    pairs = pa.array([[("a", 1)]] * 500, pa.map_(pa.string(), pa.int64()))
    write(tmp_path, shop(500, details=details, pairs=pairs, nothing=pa.nulls(500)))
    guess = guessed(tmp_path)
    left_out = {guess.column: guess.why for guess in guess.left_out}
    assert left_out["pairs"].endswith("write the fields as columns of their own")
    assert left_out["details"] == "a struct, whose fields are columns of their own"
    assert "details.brand" in {feature.column for feature in guess.features}
    assert left_out["nothing"] == "it is null in every row"


def test_without_dates_and_split_columns_rows_are_cut_by_their_hash(tmp_path):
    write(tmp_path, shop(event_time=None))
    cuts = [cut.slice for cut in guessed(tmp_path).splits.values()]
    assert [low for low, _ in cuts] == [0.0, *(high for _, high in cuts[:-1])]
    assert cuts[-1][1] == 1.0


def test_a_column_that_some_files_lack_is_optional_and_one_of_two_types_left_out(tmp_path):
    table = shop(600)
    write(tmp_path, table)
    changed = table.drop_columns(["price", "scene"]).append_column("scene", pa.array(range(600)))
    write(tmp_path, changed, name="part-1.parquet")
    guess = guessed(tmp_path)
    by = {f.column: f for f in guess.features}
    assert by["price"].is_optional
    assert not by["item_id"].is_optional
    assert "scene" in {g.column for g in guess.left_out}


def test_a_name_that_a_file_holds_twice_is_left_alone(tmp_path):
    twice = pa.Table.from_arrays(
        [*shop().columns, pa.array([0, 1] * 1_000)], [*shop().column_names, "scene"]
    )
    write(tmp_path, twice)
    guess = guessed(tmp_path)
    assert "scene" not in {f.column for f in guess.features}
    assert any("two columns" in note for note in guess.notes)


def test_a_log_without_a_label_says_what_was_seen(tmp_path):
    write(tmp_path, shop(label_order=None, label_click=["low", "high"] * 1_000))
    with pytest.raises(BadLog, match=r"events with positive.*Columns seen: .*label_click"):
        guessed(tmp_path)


def test_a_folder_of_two_tables_is_suspected_where_no_file_has_all_labels(tmp_path):
    write(tmp_path, shop(), folder="events")
    write(tmp_path, pa.table({"event_id": np.arange(2_000), "p_click": [0.5] * 2_000}), folder="p")
    with pytest.raises(BadLog, match=r"^2 tables of other columns .*Give the folder of one"):
        guessed(tmp_path)


def test_a_folder_of_midnights_names_no_domain(tmp_path):
    for day in (1, 2, 3):
        write(tmp_path, shop(100, seed=day), folder=f"at=2026-10-0{day} 00%3A00%3A00")
    assert "at" not in guessed(tmp_path).domain_keys


def test_request_user_and_row_are_told_apart(tmp_path):
    requests = np.arange(2_000) // 4
    write(tmp_path, shop(request_id=requests, user_id=requests % 150))
    guess = guessed(tmp_path)
    result = (guess.row_id.column, guess.slice_by.column, guess.user.column)
    assert result == ("event_id", "request_id", "user_id")


def test_a_column_of_dates_is_no_feature_and_the_time_of_a_log_that_has_no_other(tmp_path):
    seconds = shop().column("event_time").to_numpy()
    days = (seconds - START) // DAY
    write(tmp_path / "both", shop(date=20261001 + days))
    both = guessed(tmp_path / "both")
    assert both.time.column == "event_time"
    assert "date" in {left.column for left in both.left_out}
    assert "date" not in {f.column for f in both.features}
    write(tmp_path / "alone", shop(event_time=None, date=20261001 + days))
    alone = guessed(tmp_path / "alone")
    assert (alone.time.column, alone.time.unit, alone.time.format) == ("date", "written", "%Y%m%d")
    assert alone.splits["test"].days == both.splits["test"].days


def test_grades_are_a_label_from_the_bound_that_half_of_them_reach(tmp_path):
    grades = np.random.default_rng(1).choice([1, 2, 3, 4, 5], 2_000, p=[0.1, 0.1, 0.2, 0.4, 0.2])
    write(tmp_path, shop(label_click=None, label_order=None, rating=grades))
    (label,) = guessed(tmp_path).tasks
    assert (label.column, label.kind, label.at_least) == ("rating", "binary", 5.0)
    assert label.positives == (grades == 5).sum()


def test_what_a_person_must_say_is_noted(tmp_path):
    codes = np.random.default_rng(1).choice([1, 2, 3], 2_000, p=[0.7, 0.2, 0.1])
    write(tmp_path, shop(label_click=None, label_order=None, behavior_type=codes))
    guess = guessed(tmp_path)
    assert guess.notes[0].startswith("1 is behavior_type = 2 or 3: all but 1, the commonest")
    events = np.array(["view", "cart", "buy"])[codes - 1]
    write(tmp_path, shop(label_click=None, label_order=None, behavior_type=events))
    assert "each row is one event of behavior_type" in guessed(tmp_path).notes[0]


def test_a_domain_is_neither_an_hour_nor_too_thin_to_be_judged(tmp_path):
    draw = np.random.default_rng(2)
    changes = {
        "scene": None,
        "hourmin": draw.integers(0, 24, 20_000) * 100,
        "shelf": draw.integers(0, 40, 20_000),
        "kind": draw.integers(0, 3, 20_000),
    }
    write(tmp_path, shop(20_000, **changes))
    assert guessed(tmp_path, rows=20_000).domain_keys == ("kind",)


def test_a_column_of_arrow_dates_is_the_time_of_the_event(tmp_path):
    seconds = shop().column("event_time").combine_chunks().cast(pa.timestamp("s"))
    write(tmp_path, shop(event_time=None, t_dat=seconds.cast(pa.date32())))
    guess = guessed(tmp_path)
    assert (guess.time.column, guess.time.unit) == ("t_dat", "timestamp")
    assert guess.splits["test"].days[1] == -1


def test_neither_a_time_nor_words_identify_a_row(tmp_path):
    titles = [f"a title of row {row}" for row in range(2_000)]
    write(tmp_path, shop(event_id=None, event_time=START * 1_000 + np.arange(2_000), title=titles))
    assert guessed(tmp_path).row_id is None


@pytest.mark.parametrize(
    "name", ["User-ID", "user id", "userId", "USER_ID", "user_pseudo_id", "anonymousId"]
)
def test_a_user_is_found_however_the_name_is_written(name, tmp_path):
    users = shop().column("user_id")
    write(tmp_path, shop(user_id=None, **{name: users}))
    assert guessed(tmp_path).user.column == name


@pytest.mark.parametrize("name", ["device_id", "uuid", "clientId", "browser_key", "idfa"])
def test_a_device_stands_for_its_user_where_no_user_is_named(name, tmp_path):
    devices = shop().column("user_id")
    write(tmp_path / "alone", shop(user_id=None, **{name: devices}))
    assert guessed(tmp_path / "alone").user.column == name
    write(tmp_path / "beside", shop(**{name: devices}))
    assert guessed(tmp_path / "beside").user.column == "user_id"


def test_devices_of_which_most_have_no_id_stand_for_nobody(tmp_path):
    devices = [f"d{number}" if number % 5 == 0 else "unknown" for number in range(2_000)]
    write(tmp_path, shop(user_id=None, device_id=devices))
    assert guessed(tmp_path).user is None


@pytest.mark.parametrize("name", ["ImpressionID", "display_id"])
def test_what_was_shown_together_is_cut_together_and_is_no_feature(name, tmp_path):
    requests = np.arange(2_000) // 5
    write(tmp_path, shop(user_id=requests % 150, **{name: requests}))
    guess = guessed(tmp_path)
    assert guess.slice_by.column == name
    assert name not in {feature.column for feature in guess.features}


def test_the_reader_is_the_user_and_not_the_author(tmp_path):
    users = shop().column("user_id")
    names = "engaged_with_user_id", "author_user_id", "seller_account", "customer"
    write(tmp_path, shop(**dict.fromkeys(names, users), user_id=None, user=users))
    assert guessed(tmp_path).user.column == "user"
    write(tmp_path, shop(**dict.fromkeys(names[:3], users), user_id=None))
    assert guessed(tmp_path).user is None


@pytest.mark.parametrize("name", ["query_id", "display_url"])
def test_what_many_users_have_is_no_request(name, tmp_path):
    write(tmp_path, shop(**{name: np.arange(2_000) % 400}))
    guess = guessed(tmp_path)
    assert guess.slice_by is None
    assert name in {feature.column for feature in guess.features}


def test_a_kind_of_search_is_no_request(tmp_path):
    write(tmp_path, shop(10_000, search_type=np.arange(10_000) % 3))
    assert guessed(tmp_path).slice_by is None


def test_a_null_names_no_domain(tmp_path):
    draw = np.random.default_rng(4)
    is_known = draw.random(20_000) < 0.5
    thin = [f"c{city}" if known else None for city, known in zip(
        draw.integers(0, 40, 20_000), is_known, strict=True)]  # fmt: skip
    scenes = [None if row % 50 == 0 else f"s{row % 3}" for row in range(20_000)]
    write(tmp_path, shop(20_000, scene=scenes, city=thin))
    assert guessed(tmp_path, rows=20_000).domain_keys == ("scene",)


def test_a_column_of_many_nulls_names_domains_only_where_no_other_can(tmp_path):
    rows = np.arange(20_000)
    gender = pa.array(rows % 2, mask=rows % 10 == 0)
    write(tmp_path, shop(20_000, scene=None, gender=gender, shop_id=rows % 90))
    assert guessed(tmp_path, rows=20_000).domain_keys == ("shop_id",)


def test_a_kind_of_item_is_a_domain_rather_than_votes_or_a_property_of_users(tmp_path):
    draw = np.random.default_rng(5)
    changes = {
        "scene": None,
        "gender": draw.integers(0, 2, 20_000),
        "helpful_vote": draw.poisson(0.3, 20_000),
        "main_category": draw.choice(["books", "games", "pets"], 20_000, p=[0.6, 0.2, 0.2]),
    }
    write(tmp_path, shop(20_000, **changes))
    guess = guessed(tmp_path, rows=20_000)
    assert guess.domain_keys == ("main_category",)
    assert {f.column: f.kind for f in guess.features}["helpful_vote"] == "numeric"


def test_a_verified_purchase_is_no_answer_where_there_are_grades(tmp_path):
    draw = np.random.default_rng(6)
    changes = {"label_click": None, "label_order": None}
    changes |= {"rating": draw.integers(1, 6, 2_000), "verified_purchase": np.arange(2_000) % 2}
    write(tmp_path, shop(**changes))
    (label,) = guessed(tmp_path).tasks
    assert label.column == "rating"


def test_a_list_in_text_identifies_no_row(tmp_path):
    tokens = [f"101\t{n}\t{n + 7}" for n in range(2_000)]
    write(tmp_path, shop(event_id=None, text_tokens=tokens))
    assert guessed(tmp_path).row_id is None
