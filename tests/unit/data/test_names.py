"""A name that is not there is refused with the nearest one, and with who asked for it."""

from pathlib import Path
from typing import Any

import pytest

from iak.pipeline.data import names, nearest
from iak.pipeline.data.check import check_log
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.runs.load import parse_catalog
from tests.builders import catalog_document, draw_rows, small_catalog, write_file, write_log


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_log(
        tmp_path / "events", [("ningbo", "2026-10-01", [40]), ("hangzhou", "2026-10-02", [40])]
    )
    return tmp_path


TYPOS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a leak column": ({"log__leak_columns": ["prise"]}, "log.leak_columns", "'price'"),
    "a condition": (
        {"splits": {"pretrain": {"where": {"scenne": ["feed"]}}}},
        "splits.pretrain.where",
        "'scene'",
    ),
    "the user": ({"log__user": "userid"}, "log.user", "'user_id'"),
    "the row id": ({"log__row_id": "EVENT_ID"}, "log.row_id", "'event_id'"),
    "the request": ({"log__slice_by": "user"}, "log.slice_by", "'user_id'"),
    "a domain key": ({"domain__keys": ["regoin"]}, "domain.keys", "'region'"),
    "a parent": ({"domain__parent": ["scene", "slott"]}, "domain.parent", "'slot'"),
    "a label": (
        {"tasks": [{"label": "clik", "kind": "click"}]},
        "label of task 'ctr'",
        "'click'",
    ),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_a_misspelt_column_is_refused_by_check_and_by_jobs(root, typo):
    change, setting, near = TYPOS[typo]
    catalog = small_catalog(**change)
    report = check_log(catalog, str(root), sample_rows=100)
    (finding,) = [f for f in report.findings if f.what.startswith(setting)]
    assert finding.level == "refuse"
    assert near in finding.remedy
    assert "event_id, event_time, hist" in finding.remedy
    with pytest.raises(BadRequest, match=rf"(?s){setting}.*Did you mean.*{near}.*The files have"):
        open_log(catalog, str(root), wanted=["pretrain"])


def test_values_without_keys_are_refused_with_the_setting_that_reads_them(tmp_path):
    write_file(tmp_path / "ningbo/2026-10-01/a.parquet", draw_rows(4))
    with pytest.raises(BadRequest, match=r'have no key: ningbo\. .*folder_names = "value"'):
        names.refuse_unknown_partition_keys(str(tmp_path), small_catalog())
    names.refuse_unknown_partition_keys(str(tmp_path), small_catalog(log__folder_names="value"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["regoin", "dt"], r"'regoin', which no folder has. Did you mean 'region'"),
        (["dt", "region"], r'are \["dt", "region"\], in this order'),
        (["region", "day"], r"'day', which no folder has"),
    ],
)
def test_misspelt_partition_keys_are_refused_with_those_that_the_folders_have(root, keys, expected):
    document = catalog_document(log__partition_keys=keys, log__date_key=None)
    document["features"] = document["features"][:1]
    document["domain"] = {"keys": ["scene"]}
    document["tables"] = {}
    catalog = small_catalog(**document)
    with pytest.raises(BadRequest, match=rf'(?s){expected}.*partition_keys = \["region", "dt"\]'):
        open_log(catalog, str(root), wanted=["pretrain"])
    report = check_log(catalog, str(root), sample_rows=100)
    assert any(f.level == "refuse" and "folders below" in f.what for f in report.findings)


def test_a_stray_folder_beside_the_declared_ones_is_no_reason_to_refuse(root):
    (root / "events" / "backup=old").mkdir()
    names.refuse_unknown_partition_keys(str(root / "events"), small_catalog())


def test_an_optional_column_that_no_file_has_is_warned_of(root):
    features = [{"kind": "categorical", "name": "scene2", "optional": True}]
    report = check_log(small_catalog(features=features, tables={}), str(root), sample_rows=100)
    (finding,) = [f for f in report.findings if "optional" in f.what]
    assert (finding.level, finding.column) == ("warn", "scene2")
    assert "'scene'" in finding.remedy
    assert report.rows == 80


@pytest.mark.parametrize(
    ("presets", "expected"),
    [
        ({"pretrain": {"batch_row": 3}}, r"\[presets.pretrain\] names 'batch_row'.*'batch_rows'"),
        ({"pretrian": {}}, r"\[presets\] names 'pretrian'.*'pretrain'"),
        ({"finetune": {"domain.max_epoch": 3}}, r"'domain.max_epoch'.*'domain.max_epochs'"),
        (
            {"finetune": {"sharding.item": "row_wise"}},
            r"\[presets.finetune\]: sharding.item is now placement.sharding.item$",
        ),
    ],
)
def test_a_preset_that_does_not_exist_is_refused(tmp_path, presets, expected):
    path = tmp_path / "shop.toml"
    path.write_text(toml_of(catalog_document(), presets))
    with pytest.raises(BadRequest, match=rf"(?s){expected}"):
        parse_catalog(path)


def test_presets_of_free_tables_are_settings(tmp_path):
    path = tmp_path / "shop.toml"
    document = {
        "finetune": {"tables.precisions.item": "fp16", "placement.sharding.item": "row_wise"}
    }
    path.write_text(toml_of(catalog_document(), document))
    assert parse_catalog(path).presets == document


def toml_of(document: dict[str, Any], presets: dict[str, dict[str, Any]]) -> str:
    """A small catalogue as TOML; JSON spells these values alike."""
    import json

    lines = [
        '[log]\nname = "small"\n[domain]\nkeys = ["region"]',
        *(
            "[[features]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in feature.items())
            for feature in document["features"]
        ),
        '[[tasks]]\nlabel = "click"\nkind = "click"\n[splits.pretrain]',
    ]
    lines += [
        f"[tables.{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in table.items())
        for name, table in document["tables"].items()
    ]
    for verb, settings in presets.items():
        lines.append(f"[presets.{verb}]")
        lines += [f'"{name}" = {json.dumps(value)}' for name, value in settings.items()]
    return "\n".join(lines)


def test_nearest_names_do_not_depend_on_capitals():
    assert nearest.nearest("Item_ID", ["item_id", "price"]) == " Did you mean 'item_id'?"
    assert nearest.nearest("zzz", ["item_id", "price"]) == ""
    assert nearest.listed([f"c{n:02}" for n in range(50)]).endswith("c39, and 10 more")


def test_a_column_that_only_folders_have_is_told_to_be_a_partition_key(root):
    catalog = small_catalog(log__partition_keys=[], log__date_key=None)
    message = 'write partition_keys = ["region", "dt"] under [log]'
    (finding, *_) = [
        f
        for f in check_log(catalog, str(root), sample_rows=100).findings
        if f.what.startswith("domain.keys names the column 'region'")
    ]
    assert message in finding.remedy
    with pytest.raises(BadRequest) as refused:
        open_log(catalog, str(root), wanted=["pretrain"])
    assert message in str(refused.value)


def test_folders_that_are_named_otherwise_are_not_called_no_parquet_at_all(root):
    catalog = small_catalog(log__partition_keys=["dt", "region"])
    messages = [f.what for f in check_log(catalog, str(root), sample_rows=100).findings]
    assert "no Parquet file of the log: none of 2 files and folders there is read" in messages


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        pytest.param(
            {"region": ["Ningbo"]},
            "region = 'Ningbo', and values of region are 'hangzhou', 'ningbo' (did you mean "
            "'ningbo'?)",
            id="a folder's value",
        ),
        pytest.param(
            {"scene": ["fed"]}, "They ask for scene = 'fed', and values of scene are", id="a column"
        ),
        pytest.param({"slot": ["9"]}, "They ask for slot = '9', and values of", id="a number"),
    ],
)
def test_a_split_without_a_row_names_values_that_no_row_has(root, where, expected):
    splits = {"pretrain": {"days": [0, 0]}, "test": {"days": [1, 1], "where": where}}
    catalog = small_catalog(splits=splits)
    (finding,) = [
        f.what
        for f in check_log(catalog, str(root), sample_rows=100).findings
        if f.what.startswith("split 'test'")
    ]
    assert expected in finding
    with pytest.raises(BadLog) as refused:
        open_log(catalog, str(root), wanted=["pretrain", "test"])
    assert expected in str(refused.value)


def test_a_key_of_three_folders_is_compared_folder_by_folder(tmp_path):
    (tmp_path / "year=2026" / "month=10" / "day=01" / "hour=00").mkdir(parents=True)

    def refuse(*keys):
        catalog = small_catalog(log__partition_keys=keys, log__date_key=None)
        names.refuse_unknown_partition_keys(str(tmp_path), catalog)

    refuse("year/month/day", "hour")
    refuse("year/month/day")
    with pytest.raises(BadRequest, match=r"names 'date', which no folder has"):
        refuse("year/month/date")
