"""Every entry of the weights becomes one weight of the module, or is left out by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.base.weight_names import weight_names
from iak.pipeline.errors import BadRequest
from iak.schemas.given_base import ModuleBaseSpec

PARTS = st.lists(st.sampled_from(["a", "b", "model", "optim"]), min_size=1, max_size=4)
ENTRIES = st.lists(PARTS.map(".".join), unique=True, max_size=12)


def base(**settings):
    return ModuleBaseSpec(kind="torch", factory="shop:build", **settings)


@given(ENTRIES)
def test_without_settings_every_entry_keeps_its_name(entries):
    assert weight_names(entries, base()) == {entry: entry for entry in entries}


@given(ENTRIES)
def test_an_entry_is_read_unless_it_is_left_out(entries):
    names = weight_names(entries, base(ignore=("optim.", "model")))
    left_out = {e for e in entries if e == "model" or e.startswith("optim.")}
    assert names.keys() == set(entries) - left_out


def test_the_longest_name_that_fits_renames_an_entry():
    renamed = base(names={"model.": "", "model.tables.": "own.", "model.bias": "top.bias"})
    entries = ["model.top.weight", "model.tables.item", "model.bias", "model_2.x"]
    assert weight_names(entries, renamed) == {
        "model.top.weight": "top.weight",
        "model.tables.item": "own.item",
        "model.bias": "top.bias",
        "model_2.x": "model_2.x",
    }


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"modle.": ""}, r"base\.names has \['modle\.'\], which no entry"),
        ({"model.": "", "other.": ""}, r"\['model\.a', 'other\.a'\] .* both become a by base"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, says):
    with pytest.raises(BadRequest, match=says):
        weight_names(["model.a", "other.a"], base(names=names))
