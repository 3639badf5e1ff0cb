"""What a caller names is found, or refused with what there is; presets lie below settings."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import (
    SPECS,
    catalog_path,
    known_settings,
    load_catalog,
    merged,
    nested,
    refuse_unknown_presets,
    resolve_placement,
    spec_with_presets,
)
from iak.schemas.job import PretrainSpec
from iak.schemas.plan import PlacementSpec, PlanDocument
from tests.builders import small_catalog

SHARD = {"rank": 0, "row": 0, "rows": 10, "col": 0, "cols": 4}
TABLE = {"table": "item", "type": "row_wise", "rows": 10, "width": 4, "shards": [SHARD]}
NEEDED = {"catalog": "planted", "data_root": "/logs", "run_dir": "r"}


def test_a_shipped_catalogue_is_found_by_its_name_and_a_file_comes_first(tmp_path, monkeypatch):
    assert load_catalog(Path("planted")).log.name == "planted"
    monkeypatch.chdir(tmp_path)
    Path("planted").write_text(catalog_path(Path("frappe")).read_text())
    assert load_catalog(Path("planted")).log.name == "frappe"


def test_a_name_of_no_catalogue_lists_the_shipped_ones():
    with pytest.raises(BadRequest, match=r"no catalogue 'nope'.*planted"):
        catalog_path(Path("nope"))


def test_a_name_that_is_too_long_is_a_sentence():
    with pytest.raises(BadRequest, match="File name too long"):
        catalog_path(Path("x" * 300))


def test_a_catalogue_that_contradicts_itself_names_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[log]\nname = "9"\n')
    with pytest.raises(BadRequest, match=r"mine\.toml"):
        load_catalog(path)


@pytest.mark.parametrize(
    ("presets", "says"),
    [
        ({"pretrian": {}}, r"\[presets\] names 'pretrian'.*'pretrain'"),
        ({"pretrain": {"batchrows": 5}}, r"\[presets.pretrain\] names 'batchrows'.*'batch_rows'"),
        ({"finetune": {"optim.table_lr": 0.1}}, r"'optim.table_lr', which is not a setting"),
    ],
)
def test_presets_of_no_verb_or_setting_are_refused_with_the_nearest(presets, says):
    with pytest.raises(BadRequest, match=says):
        refuse_unknown_presets(small_catalog(presets=presets))


def test_presets_may_name_entries_of_open_settings():
    refuse_unknown_presets(small_catalog(presets={"pretrain": {"task_weights.cvr": 0.5}}))


@pytest.mark.parametrize("verb", SPECS)
def test_every_setting_of_a_verb_is_listed_by_the_name_that_users_type(verb):
    names = known_settings(SPECS[verb])
    assert "catalog" in names
    assert not any(name.endswith(("_in", "_out", "from_")) for name in names), "aliases are shown"
    assert all("." not in name or name.partition(".")[0] for name in names)


def test_a_plan_is_read_from_its_file(tmp_path):
    plan = PlanDocument.model_validate({"job": "pretrain", "world": 1, "tables": [TABLE]})
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    assert resolve_placement(PlacementSpec(plan=path), job="pretrain").plan == plan
    with pytest.raises(BadRequest, match="is for iak pretrain; plan again with job=finetune"):
        resolve_placement(PlacementSpec(plan=path), job="finetune")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"format": 1, "job": "pretrain"}', "plan .*plan.json: "),
        ('{"format": 99}', "newer version"),
        ("[]", "plan.json"),
        ("{", "plan.json"),
    ],
)
def test_what_is_no_plan_is_refused_by_its_file(tmp_path, content, says):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(BadRequest, match=says):
        resolve_placement(PlacementSpec(plan=path), job="pretrain")


TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


def leaves(tree, below=""):
    found = {}
    for key, value in tree.items():
        is_inner = isinstance(value, dict)
        found |= leaves(value, f"{below}{key}.") if is_inner else {f"{below}{key}": value}
    return found


@given(TREES)
def test_dotted_names_nest_into_the_tree_that_they_name(tree):
    assert nested(leaves(tree)) == tree


@given(TREES, TREES)
def test_of_two_trees_every_setting_of_the_upper_one_counts(below, above):
    both = leaves(merged(below, above))
    assert both.items() >= leaves(above).items()
    assert merged(merged(below, above), above) == merged(below, above)


def test_settings_lie_on_presets_and_presets_on_defaults():
    catalog = small_catalog(presets={"pretrain": {"seed": 5, "optim.table_lr": 0.25}})
    settings = NEEDED | {"optim": {"dense_lr": 0.125}, "seed": 7}
    spec = spec_with_presets(PretrainSpec, "pretrain", catalog, settings)
    assert (spec.seed, spec.optim.table_lr, spec.optim.dense_lr) == (7, 0.25, 0.125)
    default = PretrainSpec.model_fields["shuffle_rows"].default
    assert spec.shuffle_rows == default


def test_a_preset_out_of_its_range_is_named():
    catalog = small_catalog(presets={"pretrain": {"optim.table_lr": -1}})
    with pytest.raises(BadRequest, match=r"optim\.table_lr: .*seen -1"):
        spec_with_presets(PretrainSpec, "pretrain", catalog, NEEDED)
