"""What differs between the inputs of two attempts, in words that name it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.runs.inputs import catalog_document, describe_files, describe_keys
from iak.pipeline.runs.load import load_catalog
from iak.schemas.log_snapshot import LogSnapshot, ReadFile
from tests.builders import FEATURES, small_catalog

ITEM = {"kind": "categorical", "name": "item", "column": "item_id", "table": "shared"}


def parsed(**changes):
    return catalog_document(small_catalog(**changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param(
            {"domain__min_rows": 7}, "domain.min_rows was 500, is 7", id="a number"
        ),
        pytest.param(
            {"log__user": None}, "log.user was 'user_id', is None", id="a key left out"
        ),
        pytest.param(
            {"splits": {"pretrain": {"slice": [0.0, 0.5]}, "test": {"slice": [0.5, 1.0]}}},
            "splits.test.slice was absent, is [0.5, 1.0]",
            id="a split more",
        ),
        pytest.param(
            {"features": [FEATURES[0], ITEM, *FEATURES[2:]]},
            "features.item.table was None, is 'shared'",
            id="a feature by its name",
        ),
        pytest.param(
            {"tasks": [{"label": "click", "kind": "click", "matures_after": "P1D"},
                       {"label": "order", "kind": "conversion"}]},
            "tasks.click.matures_after was None, is 'P1D'",
            id="a task by its label",
        ),
        pytest.param({"features": FEATURES[::-1]}, "features was ['user_id'", id="another order"),
    ],
)  # fmt: skip
def test_keys_that_differ_are_named_with_both_values(changes, told):
    said = describe_keys(parsed(), parsed(**changes))
    assert told in said
    assert bool(told) == bool(said)


def test_many_keys_are_counted_and_long_values_cut():
    now = parsed(
        features=[FEATURES[0]], tables={}, domain__values=[[f"region {n}"] for n in range(99)]
    )
    said = describe_keys(parsed(), now)
    assert said.count(" was ") == 5
    assert said.endswith(" more")
    assert "..." in said
    assert len(said) < 1_000


def test_a_catalogue_file_of_other_comments_and_order_of_tables_is_the_same(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(text)
        return catalog_document(load_catalog(tmp_path / name))

    log = '[log]\nname = "small"\n'
    rest = '[domain]\nkeys = ["region"]\n[[features]]\nkind = "categorical"\nname = "item"\n'
    rest += '[[tasks]]\nlabel = "click"\n[splits.test]\n'
    one = written("one.toml", log + rest)
    assert written("two.toml", f"# ours\n{rest}\n# and the log\n{log}path = 'events'\n") == one
    assert written("three.toml", f"{log}{rest}[presets.finetune]\nseed = 3\n") == one
    assert written("four.toml", f"{log}user = 'u'\n{rest}") != one


def test_a_document_survives_the_record():
    document = parsed(splits={"pretrain": {"dates": ["2026-10-01", "2026-10-02"]}})
    assert json.loads(json.dumps(document)) == document


FILE = st.sampled_from("abcdefgh")
SNAPSHOT = st.dictionaries(FILE, st.integers(0, 2))


def snapshot(files):
    return LogSnapshot(
        files=tuple(ReadFile(path=path, fingerprint=str(n)) for path, n in files.items())
    )


@given(then=SNAPSHOT, now=SNAPSHOT)
def test_files_that_differ_are_counted_once_each(then, now):
    said = describe_files(snapshot(then), snapshot(now))
    counts = {
        "changed": len({p for p in then if p in now and then[p] != now[p]}),
        "added": len(now.keys() - then.keys()),
        "removed": len(then.keys() - now.keys()),
    }
    for what, count in counts.items():
        noun = "file" if count == 1 else "files"
        assert (f"{count} {noun} {what} (" in said) == bool(count)
    assert bool(said) == (then != now)
