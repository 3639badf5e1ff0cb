"""Settings as people type them: names that are near, and text where text is wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.jobs.setting_names import dotted, near_settings, refuse_other_than_text, refuse_unknown
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import known_settings
from iak.schemas.export import ExportSpec
from iak.schemas.job import AdoptSpec, FinetuneSpec, PretrainSpec

KNOWN = sorted(known_settings(PretrainSpec))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"a": 1, "b": {"c": 2, "d": {"e": 3}}}, ["a", "b.c", "b.d.e"]),
        ({"sharding": {}}, ["sharding"]),
        ({}, []),
        ({"a": {"b": []}}, ["a.b"]),
    ],
)
def test_every_leaf_has_a_dotted_name(tree, names):
    assert dotted(tree) == names


@given(st.sampled_from(KNOWN), st.booleans())
def test_every_setting_of_a_verb_is_known_with_dashes_too(name, with_dashes):
    word = name.replace("_", "-") if with_dashes else name
    refuse_unknown(PretrainSpec, [word], command="iak pretrain")


@pytest.mark.parametrize(
    "word",
    ["no-bf16", "optim", "placement.sharding.item_id", "empty-allow", "task_weights.ctr"],
)
def test_sections_open_names_and_flags_that_are_turned_off_are_known(word):
    refuse_unknown(PretrainSpec, [word], command="iak pretrain")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("batchrows", "batch_rows"),
        ("table_lr", "optim.table_lr"),
        ("optim.tabel_lr", "optim.table_lr"),
        ("zzz", "--help lists them all"),
        ("seed.x", "Did you mean|--help"),
        ("no-such", "Did you mean|--help"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_command_and_what_is_near(word, near):
    with pytest.raises(BadRequest, match=near) as error:
        refuse_unknown(PretrainSpec, ["seed", word], command="iak pretrain")
    assert str(error.value).startswith("iak pretrain: ")
    assert repr(word) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "word", "meant"), [(ExportSpec, "run_dir", "out"), (PretrainSpec, "out", "run_dir")]
)
def test_where_a_verb_writes_has_two_names(kind, word, meant):
    with pytest.raises(BadRequest, match=rf"no setting '{word}'. Did you mean {meant}\b"):
        refuse_unknown(kind, [word], command="iak x")


@pytest.mark.parametrize("word", ["zzz", "data-root"])
def test_a_verb_of_few_settings_names_them_all(word):
    with pytest.raises(BadRequest, match=r"It takes catalog, base, .*, tables\.\*") as error:
        refuse_unknown(ExportSpec, [word], command="iak export")
    assert "tables.precision" not in str(error.value)


def test_at_most_four_names_are_suggested():
    names = [f"part{i}.rows" for i in range(9)]
    assert near_settings("row", names).count(" or ") == 3


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"run_dir": 1}, "run_dir"),
        ({"data_root": True}, "data_root"),
        ({"cache": {"folder": 7}}, "cache.folder"),
        ({"base": ["b"]}, "base"),
    ],
)
def test_a_number_where_text_is_wanted_is_refused_by_its_setting(settings, setting):
    with pytest.raises(BadRequest, match=f"c.toml: {setting}: expected text in quotes"):
        refuse_other_than_text(FinetuneSpec, settings, command="c.toml")


def test_a_number_in_a_group_of_texts_is_refused_by_its_setting():
    with pytest.raises(BadRequest, match=r"c\.toml: scores: expected text in quotes, seen"):
        refuse_other_than_text(AdoptSpec, {"scores": {"ctr": 1}}, command="c.toml")
    refuse_other_than_text(AdoptSpec, {"scores": {"ctr": "p_ctr"}}, command="c.toml")


def test_numbers_texts_and_absent_settings_pass():
    settings = {"run_dir": "r", "seed": 3, "workers": 2, "base": "b", "pooled": {"lr": 0.1}}
    refuse_other_than_text(FinetuneSpec, settings, command="c.toml")
