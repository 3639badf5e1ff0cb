"""A catalogue gives a model what it reads, or is told what to change."""

import tomllib

import pytest

from iak.pipeline.easyrec.config import read_config
from iak.pipeline.easyrec.inputs import problems_with
from iak.schemas.log import Catalog
from tests.easyrec_log import catalog_text
from tests.easyrec_models import MODELS, config_text


def problems(tmp_path, name, change=None, text=None):
    path = tmp_path / "pipeline.config"
    path.write_text(text or config_text(name))
    document = tomllib.loads(catalog_text(name, path))
    if change:
        change(document)
    return problems_with(read_config(path), Catalog.model_validate(document))


@pytest.mark.parametrize("name", MODELS)
def test_the_catalogue_of_a_model_fits(tmp_path, name):
    assert problems(tmp_path, name) == []


def feature(document, name):
    return next(feature for feature in document["features"] if feature["name"] == name)


def leave_out(name):
    def change(document):
        document["features"].remove(feature(document, name))
        document["tables"].pop(name, None)

    return change


def read_as_a_number(document):
    feature(document, "age")["kind"] = "numeric"
    del document["tables"]["age"]


def swap_numbers(document):
    document["features"][-2:] = document["features"][:-3:-1]


CHANGES = {
    "feature user is missing; add": leave_out("user"),
    "feature price is missing; add": leave_out("price"),
    "feature price is read as it is logged": lambda d: feature(d, "price").update(log=True),
    "feature ratio is read as it is": lambda d: feature(d, "ratio").update(standardise=True),
    "rows = 33; expected 32, the 30 of the model": lambda d: d["tables"]["user"].update(rows=33),
    "feature age is one id, or a list of ids": read_as_a_number,
    "come to the model in the order": swap_numbers,
    "towers of the model are ['ctr', 'cvr']": lambda d: d["tasks"].reverse(),
    "give the task kind = 'binary'".capitalize(): lambda d: d["tasks"][1].update(kind="conversion"),
}


@pytest.mark.parametrize("says", CHANGES)
def test_a_catalogue_that_does_not_fit_is_told_what_to_change(tmp_path, says):
    (problem,) = problems(tmp_path, "mmoe", CHANGES[says])
    assert says.lower() in problem.lower()


def test_what_to_add_is_what_fits(tmp_path):
    (problem,) = problems(tmp_path, "mmoe", CHANGES["feature user is missing; add"])
    _, _, added = problem.partition("\n")
    given = tomllib.loads(added)
    assert given["tables"] == {"user": {"encoding": "identity", "rows": 32}}
    assert given["features"] == [{"name": "user", "kind": "categorical"}]


def test_a_tower_that_learned_from_clicks_alone_is_a_conversion(tmp_path):
    space = 'label_name: "cvr" task_space_indicator_label: "ctr" out_task_space_weight: 0'
    text = config_text("mmoe").replace('label_name: "cvr"', space)
    change = CHANGES["Give the task kind = 'binary'"]
    assert problems(tmp_path, "mmoe", change, text) == []


def test_a_model_of_one_task_has_one(tmp_path):
    def add(document):
        document["tasks"].append({"label": "like"})

    (problem,) = problems(tmp_path, "dlrm", add)
    assert "the model has one task, and the catalogue has ['ctr', 'like']" in problem
