"""Jobs say before they start what they do not read, and refuse to lose too much unasked."""

import json
from datetime import date
from pathlib import Path

import pytest

from iak.jobs import pretrain
from iak.jobs.console_report import console_report
from iak.jobs.local_launcher import LocalLauncher
from iak.pipeline.data.domains import nearest_of
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog
from iak.pipeline.events import silent
from iak.pipeline.runs import skipped
from iak.pipeline.runs.record import read_record
from iak.schemas.job import CheckSpec, PretrainSpec
from tests.builders import DAYS, catalog_document, draw_rows, partition, small_catalog, write_file

SPLITS = {"pretrain": {"days": [0, 1]}, "valid": {"days": [2, 2]}}


class Started(Exception):
    """The job came to its workers."""


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """Three days, of which one breaks the catalogue; a job that stops where workers start."""

    def start(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(LocalLauncher, "run", start)
    for number, day in enumerate(DAYS):
        rows = draw_rows(60, first=60 * number)
        rows = rows.drop_columns(["price"]) if number == 1 else rows
        write_file(tmp_path / "events" / partition("ningbo", day) / "a.parquet", rows)
    return tmp_path


def spec_of(root: Path, document: dict, **settings: object) -> PretrainSpec:
    path = root / "log.toml"
    path.write_text(toml_of(document))
    return PretrainSpec(
        catalog=path, data_root=str(root), run_dir=root / "run", workers=1, **settings
    )


def toml_of(document: dict) -> str:
    """The catalogue as TOML: every value of the small one is TOML where it is JSON."""

    def inline(value: object) -> str:
        if isinstance(value, dict):
            given = {k: v for k, v in value.items() if v is not None}
            return "{" + ", ".join(f'"{k}" = {inline(v)}' for k, v in given.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    return "\n".join(f"{key} = {inline(value)}" for key, value in document.items())


def test_a_lost_day_is_printed_recorded_and_refused_and_the_same_run_goes_on_once_allowed(
    log, capsys
):
    document = catalog_document(splits=SPLITS)
    with pytest.raises(BadLog, match="all of 2026-10-02: missing columns: price"):
        pretrain.main(spec_of(log, document))
    shown = " ".join(capsys.readouterr().out.split())
    assert "not read of log 'small'" in shown
    assert "split 'pretrain' loses 60 of 120 rows" in shown
    record = read_record(log / "run")
    assert record is not None
    kept = record.snapshot.skipped
    assert kept.files[0].days == (date(2026, 10, 2),)
    assert kept.windows[0].share == 0.5
    with pytest.raises(Started):
        pretrain.main(spec_of(log, document, allow_skipped=True))


def test_a_share_alone_is_allowed_by_its_setting(log):
    write_file(log / "events" / partition("hefei", DAYS[1]) / "a.parquet", draw_rows(60, first=900))
    document = catalog_document(splits=SPLITS)
    with pytest.raises(BadLog, match=r"33\.3%.*"):
        pretrain.main(spec_of(log, document))
    with pytest.raises(Started):
        pretrain.main(spec_of(log, document, max_skipped_share=0.34))


def test_a_task_whose_labels_have_all_not_matured_is_refused(log, monkeypatch):
    document = catalog_document(
        splits={"pretrain": {"days": [0, 0]}, "valid": {"days": [2, 2]}},
        tasks=[{"label": "click", "kind": "click", "matures_after": "P9D"}],
        log__event_time=None,
    )

    def start(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(LocalLauncher, "run", start)
    with pytest.raises(BadLog, match=r"ctr \(click\): no row has a label"):
        pretrain.main(spec_of(log, document))


def test_today_is_what_is_asked_else_the_clocks_and_none_where_dates_are_made_up():
    real, planted = small_catalog(), small_catalog(log__truth="truth")
    asked = CheckSpec(catalog=Path("any"), data_root="any", today=date(2026, 11, 28))
    plain = CheckSpec(catalog=Path("any"), data_root="any")
    assert skipped.today_of(asked, real) == skipped.today_of(asked, planted) == asked.today
    assert skipped.today_of(plain, planted) is None
    before = date.today()
    clock = skipped.today_of(plain, real)
    assert clock is not None
    assert clock >= before


def test_domains_without_tuning_rows_are_printed_with_what_serves_them(log, capsys):
    write_file(log / "events" / partition("hefei", DAYS[2]) / "a.parquet", draw_rows(30, first=900))
    catalog = small_catalog(splits={"tune": {"days": [0, 0]}, "test": {"days": [2, 2]}})
    opened = open_log(catalog, str(log), wanted=["tune"])
    with console_report() as report:
        (found,) = skipped.report_untuned(opened, nearest_of({"pooled"}), report)
    assert (found.domain, found.split) == ("region=hefei", "test")
    assert (found.rows, found.served_by) == (30, "pooled")
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 domain has 30 rows in test and none in tune: region=hefei (30 rows, " in shown
    assert skipped.report_untuned(opened, nearest_of({"pooled"}), silent, judged=["gate"]) == []


def test_a_split_that_the_job_does_not_read_stops_nothing(log):
    scenes = small_catalog(
        domain__keys=["scene"], splits={"tune": {"days": [0, 0]}, "test": {"days": [2, 2]}}
    )
    opened = open_log(scenes, str(log), wanted=["tune"])
    path = log / "events" / partition("ningbo", DAYS[2]) / "a.parquet"
    held = path.read_bytes()
    footer = 8 + int.from_bytes(held[-8:-4], "little")
    path.write_bytes(b"PAR1" + held[-footer:])  # a footer whose pages are gone
    events = []
    assert skipped.report_untuned(opened, nearest_of({"pooled"}), events.append) == []
    (notice,) = events
    assert notice.is_warning
    assert "domains were not counted: " in notice.text
