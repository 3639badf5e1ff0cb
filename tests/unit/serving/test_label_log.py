"""Labels are read from a log as its files arrive: only ripe ones, and each file once."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data import hashing, parquet
from iak.pipeline.errors import BadRequest
from iak.pipeline.serving.calibration import ServedCalibration
from iak.pipeline.serving.label_log import LabelLog
from iak.schemas.predictions import metric_tasks
from iak.schemas.task import TaskSpec
from tests.builders import DAYS, REGIONS, write_log
from tests.unit.serving.shop import shop_catalog

RIPENING = [
    {"label": "click", "kind": "click"},
    {"label": "order", "kind": "conversion", "matures_after": "P1D"},
]


def served(rows):
    """A calibration to which each row of a log was served as one half."""
    tasks = metric_tasks(shop_catalog().tasks, negatives_kept=1.0)
    calibration = ServedCalibration(tasks, rows=10_000, share=1.0)
    columns = {"row": keys_of(rows), "id": rows.column("event_id").cast(pa.string())}
    columns |= {f"p.{task.name}": np.full(len(rows), 0.5) for task in tasks}
    columns |= {name: ["pooled"] * len(rows) for name in ("kernel", "version")}
    calibration.add(pa.table(columns))
    return calibration


def keys_of(rows):
    return hashing.keys_of(rows.column("event_id")).view(np.int64)


def clicked(rows):
    """Rows whose click is known, clicks, and clicked rows whose order is known."""
    clicks, orders = (rows.column(name).to_pylist() for name in ("click", "order"))
    pairs = list(zip(clicks, orders, strict=True))
    known = [click for click, _ in pairs if click is not None]
    return len(known), sum(known), sum(1 for c, order in pairs if c and order is not None)


def sums_of(calibration):
    return {line.task: (line.sums.rows, line.sums.observed) for line in calibration.lines()}


def test_labels_of_new_files_are_read_once(tmp_path, monkeypatch):
    rows = write_log(tmp_path / "events", [(REGIONS[0], day, [40]) for day in DAYS[:2]])
    calibration = served(rows)
    log = LabelLog(calibration, shop_catalog(), str(tmp_path), days=7)
    assert log.look() == len(rows)
    known, clicks, orders = clicked(rows)
    assert sums_of(calibration)["ctr"] == (known, clicks)
    assert sums_of(calibration)["cvr"][0] == orders, "a conversion is counted among clicked rows"
    read = []
    monkeypatch.setattr(parquet, "selected_columns", lambda *args: read.append(args))
    assert (log.look(), read, log.problem) == (0, [], "")


def test_a_label_counts_when_it_is_ripe(tmp_path):
    layout = [(REGIONS[0], day, [40]) for day in DAYS[:1]]
    rows = write_log(tmp_path / "events", layout)
    calibration = served(rows)
    catalog = shop_catalog(tasks=RIPENING, as_of=DAYS[0])
    log = LabelLog(calibration, catalog, str(tmp_path), days=7)
    log.look()
    assert set(sums_of(calibration)) == {"ctr"}
    later = date.fromisoformat(DAYS[0]).replace(year=2027).isoformat()
    LabelLog(calibration, shop_catalog(tasks=RIPENING, as_of=later), str(tmp_path), days=7).look()
    known, clicks, orders = clicked(rows)
    assert sums_of(calibration)["ctr"] == (known, clicks)
    assert sums_of(calibration)["cvr"][0] == orders


def test_days_before_the_newest_ones_are_not_read(tmp_path):
    rows = write_log(tmp_path / "events", [(REGIONS[0], day, [40]) for day in DAYS[:3]])
    calibration = served(rows)
    assert LabelLog(calibration, shop_catalog(), str(tmp_path), days=1).look() == 40


def test_a_log_that_cannot_be_read_is_named_and_read_later(tmp_path):
    rows = write_log(tmp_path / "elsewhere" / "events", [(REGIONS[0], DAYS[0], [40])])
    log = LabelLog(served(rows), shop_catalog(), str(tmp_path / "data"), days=7)
    assert log.look() == 0
    assert "no folder at" in log.problem
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    assert (log.look(), log.problem) == (40, "")


def test_rows_need_an_id():
    nothing = ServedCalibration((), rows=1, share=1.0)
    with pytest.raises(BadRequest, match=r"declares no log.row_id.*labels.data"):
        LabelLog(nothing, shop_catalog(log__row_id=None), "data", days=7)


def test_labels_may_be_events_of_one_column(tmp_path):
    rows = write_log(tmp_path / "events", [(REGIONS[0], DAYS[0], [40])])
    calibration = served(rows)
    tasks = (
        TaskSpec(label="scene", positive=("feed", "search"), kind="click"),
        TaskSpec(label="scene", positive=("feed",), kind="conversion"),
    )
    catalog = shop_catalog().model_copy(update={"tasks": tasks})
    log = LabelLog(calibration, catalog, str(tmp_path), days=7)
    assert log.look() == len(rows)
    words = [word for word in rows.column("scene").to_pylist() if word is not None]
    clicks = sum(word in ("feed", "search") for word in words)
    assert sums_of(calibration)["ctr"] == (len(words), clicks)
    assert sums_of(calibration)["cvr"] == (clicks, words.count("feed"))
