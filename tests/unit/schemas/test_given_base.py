"""A catalogue with a base of columns that contradicts itself is refused with what to change."""

import pytest
from pydantic import ValidationError

from iak.schemas.given_base import GivenBaseSpec
from tests.builders import small_catalog
from tests.dlrm_log import DOCUMENT, dlrm_catalog
from tests.given_log import given_catalog, given_document

BASE = given_document()["base"]


def without(key):
    return {name: value for name, value in BASE.items() if name != key}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({**BASE, "logits": {"ctr": "logit_ctr"}}, r"the tasks are \['ctr', 'cvr'\]; name one col"),
        ({**BASE, "logits": {**BASE["logits"], "ltv": "x"}}, "the tasks are"),
        (without("units"), "h and units belong together"),
        (without("h"), "h and units belong together"),
        ({**BASE, "logits": {"ctr": "h", "cvr": "logit_cvr"}}, r"\['h'\] are named twice"),
        (
            {**BASE, "logits": {"ctr": "click", "cvr": "logit_cvr"}},
            r"\['click'\], which are labels",
        ),
        ({**BASE, "kind": "column"}, "base"),
        ({**BASE, "h": None, "units": None, "towers": []}, "towers read h; name the list column"),
        ({**BASE, "units": 0}, r"base\.columns\.units"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(base, message):
    with pytest.raises(ValidationError, match=message):
        given_catalog(base=base)


@pytest.mark.parametrize(
    "feature",
    [{"kind": "categorical", "name": "user"}, {"kind": "numeric", "name": "price", "buckets": 3}],
)
def test_a_feature_that_reads_a_table_is_refused(feature):
    with pytest.raises(ValidationError, match="read tables, and a base of kind 'columns' has none"):
        given_catalog(features=[feature])


def test_a_leak_column_is_no_base():
    log = given_document()["log"] | {"leak_columns": ["logit_ctr"]}
    with pytest.raises(ValidationError, match=r"\['logit_ctr'\], which are labels or leak columns"):
        given_catalog(log=log)


def test_logits_are_in_the_order_of_the_tasks_however_they_are_written():
    turned = dict(reversed(BASE["logits"].items()))
    assert list(given_catalog(base=BASE | {"logits": turned}).base.logits) == ["ctr", "cvr"]


def test_features_may_be_absent_beside_a_given_base_alone():
    assert given_catalog(features=[]).features == ()
    with pytest.raises(ValidationError, match="features: expected at least 1"):
        small_catalog(features=[], tables={})


def test_a_catalogue_without_a_given_base_is_written_as_it_always_was():
    assert "base" not in small_catalog().model_dump(mode="json")
    assert "base" not in small_catalog().model_dump_json()
    assert given_catalog().model_dump(mode="json")["base"]["h"] == "h"


def test_the_columns_of_a_base_are_read_and_are_no_features():
    catalog = given_catalog()
    assert GivenBaseSpec.model_validate(BASE).columns == ("logit_ctr", "logit_cvr", "h")
    assert {"logit_ctr", "logit_cvr", "h"} <= set(catalog.columns)
    assert catalog.feature_columns == {"price"}


def test_a_module_reads_row_numbers_of_its_own():
    with pytest.raises(ValidationError, match=r"tables \['item'\] are numbered by this log's ids"):
        dlrm_catalog(tables={"user": DOCUMENT["tables"]["user"]})


@pytest.mark.parametrize("factory", ["build", "a.b:", "a b:c", "a:b.c", "../a:b"])
def test_a_factory_is_a_module_and_a_name(factory):
    with pytest.raises(ValidationError, match="factory"):
        dlrm_catalog(base={"kind": "torch", "factory": factory})


def test_a_base_without_towers_has_the_document_that_it_had_before_there_were_any():
    assert "towers" not in given_catalog().model_dump(mode="json")["base"]
    assert (
        given_catalog(base={**BASE, "towers": []}).model_dump(mode="json")["base"]["towers"] == []
    )


def test_a_base_is_the_same_under_another_source_and_other_names_of_weights():
    base = DOCUMENT["base"]
    same = dlrm_catalog(base=base | {"source": "0" * 64, "names": {"a.": ""}, "ignore": ["b"]})
    assert same.base.meaning == dlrm_catalog().base.meaning
    other = dlrm_catalog(base=base | {"factory": "shop_model:build"})
    assert other.base.meaning != same.base.meaning
    assert dlrm_catalog().base.model_dump() == base


@pytest.mark.parametrize(
    "base",
    [
        {"names": {"a.": "b"}},
        {"names": {"a": ""}},
        {"names": {"a": "b."}},
        {"ignore": ["a", "a"]},
        {"source": "3f7a"},
    ],
)
def test_settings_of_a_module_that_contradict_themselves_are_refused(base):
    with pytest.raises(ValidationError, match=f"{next(iter(base))}"):
        dlrm_catalog(base=DOCUMENT["base"] | base)
