"""`iak init`: the file it writes, and what it leaves alone."""

import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.jobs import cli, init
from iak.pipeline.data.check import check_log
from iak.schemas.log import Catalog

ODD = ("item id", "item-id", "价格", "2nd", 'quo"te', "back\\slash", "_under")


def write_log(root, **columns):
    draw = np.random.default_rng(0)
    click = draw.integers(0, 2, 600)
    rows = {
        "event_id": np.arange(600),
        "user_id": draw.integers(0, 40, 600),
        "scene": draw.choice(["a", "b"], 600),
        "click": click,
        "order": click * draw.integers(0, 2, 600),
        "cart": click,
    } | columns
    for day in range(1, 6):
        path = root / "shop" / "events" / f"dt=2026-10-0{day}" / "p.parquet"
        path.parent.mkdir(parents=True)
        kept = {name: column for name, column in rows.items() if column is not None}
        pq.write_table(pa.table(kept | {"event_id": np.arange(600) + 600 * day}), path)
    return root / "shop"


def test_the_written_file_is_a_catalogue_that_check_takes(tmp_path, capsys):
    log, out = write_log(tmp_path), tmp_path / "new" / "shop.toml"
    assert cli.run(["init", str(log), f"out={out}"]) == 0
    catalog = Catalog.model_validate(tomllib.loads(out.read_text()))
    assert (catalog.log.name, catalog.log.path) == ("shop", "events")
    assert [t.title for t in catalog.tasks] == ["ctr", "order", "cart"]
    report = check_log(catalog, str(log), sample_rows=5_000)
    assert not [f for f in report.findings if f.level == "refuse"]
    assert f"data_root={log}" in capsys.readouterr().out.replace("\n", "")


def test_folders_of_a_time_are_written_as_its_keys(tmp_path):
    log, out = write_log(tmp_path), tmp_path / "shop.toml"
    for day in sorted((log / "events").iterdir()):
        (day / "hour=03").mkdir()
        (day / "p.parquet").rename(day / "hour=03" / "p.parquet")
    assert cli.run(["init", str(log), f"out={out}"]) == 0
    catalog = Catalog.model_validate(tomllib.loads(out.read_text()))
    assert (catalog.log.date_key, catalog.log.time_keys) == ("dt", ("hour",))


def test_events_words_and_numbers_in_text_are_written_as_tasks_that_check_takes(tmp_path):
    draw = np.random.default_rng(1)
    events = draw.choice(["view", "cart", "buy"], 600, p=[0.6, 0.25, 0.15])
    shops = {
        "events": {"event_type": events},
        "words": {"click": np.where(events == "view", "N", "Y"), "order": ["0", "1"] * 300},
    }
    for name, columns in shops.items():
        gone = {"click": None, "order": None, "cart": None} | columns
        log, out = write_log(tmp_path / name, **gone), tmp_path / f"{name}.toml"
        assert cli.run(["init", str(log), f"out={out}"]) == 0
        catalog = Catalog.model_validate(tomllib.loads(out.read_text()))
        report = check_log(catalog, str(log), sample_rows=5_000)
        assert not [f for f in report.findings if f.level == "refuse"]
        shown = [(t.title, t.label_text) for t in catalog.tasks]
        assert (
            shown
            == {
                "events": [("cart", "event_type = cart"), ("buy", "event_type = buy")],
                "words": [("ctr", "click = Y"), ("order", "order >= 1")],
            }[name]
        )
        assert "positive = [" in out.read_text()


def test_a_log_of_text_alone_is_read_as_the_numbers_that_it_has(tmp_path):
    draw = np.random.default_rng(1)
    texts = {
        "timestamp": (1_790_812_800_000 + np.arange(600) * 60_000).astype(str),
        "price": [f"{price:.2f}" for price in draw.gamma(2, 9, 600)],
        "click": np.where(draw.random(600) < 0.3, "1", "0"),
        "order": None,
        "cart": None,
    }
    log, out = write_log(tmp_path, **texts), tmp_path / "shop.toml"
    assert cli.run(["init", str(log), f"out={out}"]) == 0
    written = tomllib.loads(out.read_text())
    time = {key: value for key, value in written["log"].items() if key.startswith("event_time")}
    assert time == {
        "event_time": "timestamp", "event_time_format": "unix", "event_time_unit": "ms",
    }  # fmt: skip
    (price,) = [f for f in written["features"] if f["name"] == "price"]
    assert (price["kind"], price["in_text"]) == ("numeric", True)
    assert written["tasks"][0] == {"label": "click", "at_least": 1, "kind": "click"}
    report = check_log(Catalog.model_validate(written), str(log), sample_rows=5_000)
    assert not [f for f in report.findings if f.level == "refuse"]


def test_every_guess_is_marked_with_its_reason(tmp_path):
    out = tmp_path / "shop.toml"
    cli.run(["init", str(write_log(tmp_path)), f"out={out}"])
    lines = out.read_text().splitlines()
    for key in ("date_key", "row_id", "user", "keys", 'kind = "categorical"', "label"):
        marked = [line for line in lines if line.startswith(key)]
        assert marked
        assert all("# guessed: " in line for line in marked)


def test_an_existing_file_is_left_alone_unless_it_may_be_overwritten(tmp_path, capsys):
    log, out = write_log(tmp_path), tmp_path / "shop.toml"
    out.write_text("mine")
    assert cli.run(["init", str(log), f"out={out}"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert cli.run(["init", str(log), f"out={out}", "overwrite=true"]) == 0
    assert out.read_text() != "mine"


def test_names_that_no_feature_may_bear_are_columns_of_others(tmp_path):
    odd = {name: np.arange(600) % (5 + at) for at, name in enumerate(ODD)}
    out = tmp_path / "shop.toml"
    assert cli.run(["init", str(write_log(tmp_path, **odd)), f"out={out}"]) == 0
    catalog = Catalog.model_validate(tomllib.loads(out.read_text()))
    assert set(ODD) <= {column for f in catalog.features for column in f.columns}
    report = check_log(catalog, str(tmp_path / "shop"), sample_rows=5_000)
    assert not [f for f in report.findings if f.level == "refuse"]


def test_a_missing_folder_is_a_bad_request(tmp_path, capsys):
    assert cli.run(["init", str(tmp_path / "nope"), f"out={tmp_path / 'x.toml'}"]) == 2
    assert "no folder at" in capsys.readouterr().err


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_toml(text):
    assert tomllib.loads(f"x = {init.toml_value(text)}") == {"x": text}
    assert tomllib.loads(f"x = 1 # {init.toml_comment(text)}") == {"x": 1}


@given(st.lists(st.text(max_size=80), unique=True, max_size=8))
def test_feature_names_are_distinct_and_allowed(columns):
    names = init.unique_names(columns)
    assert len(set(names.values())) == len(columns)
    assert all(n[0].isascii() and n[0].isalpha() and len(n) <= 64 for n in names.values())


@pytest.mark.parametrize(
    ("folder", "name"),
    [("/data/shop", "events"), ("/data", "shop")],
)
def test_a_log_is_named_by_the_folder_that_says_something(folder, name):
    assert init.log_name(folder, name) == "shop"
