"""What is told of a catalogue that a person got wrong: where, what was seen, and what to write."""

from typing import Any

import pytest
from pydantic import ValidationError

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.explain import explain
from iak.pipeline.runs.load import parse_catalog
from iak.schemas.job import PretrainSpec
from iak.schemas.log import Catalog
from tests.builders import catalog_document

HIST = 4
"""Place of the feature `hist` in the small catalogue."""


def feature(**changes: Any) -> list[dict[str, Any]]:
    """The small catalogue's features, that list changed."""
    features = [dict(one) for one in catalog_document()["features"]]
    features[HIST] = {k: v for k, v in (features[HIST] | changes).items() if v is not None}
    return features


def told(document: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as refused:
        Catalog.model_validate(document)
    return explain(refused.value, Catalog, document)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        pytest.param(
            {"log__event_tim": "t"},
            "log.event_tim: there is no such key. Did you mean 'event_time' or 'event_time_unit' "
            "or 'event_time_format'? Keys here: date_key, date_unit, ",
            id="a key misspelt",
        ),
        pytest.param(
            {"domains": {"keys": ["region"]}},
            "domains: there is no such key. Did you mean 'domain'? "
            "Keys here: as_of, base, domain, ",
            id="a section misspelt",
        ),
        pytest.param(
            {"features": feature(lasst=20)},
            "features.4.lasst ('hist'): there is no such key. Did you mean 'last'?",
            id="a feature's key misspelt",
        ),
        pytest.param(
            {"features": feature(kind="lst")},
            "features.4 ('hist'): kind = \"lst\" is none of categorical, list, cross, numeric. "
            "Did you mean 'list'?",
            id="a kind misspelt",
        ),
        pytest.param(
            {"features": feature(kind=None)},
            "features.4 ('hist'): kind is missing; write kind = \"categorical\", ",
            id="no kind",
        ),
        pytest.param(
            {"features": feature(padding=[0])},
            "features.4.padding ('hist'): expected whole number or text",
            id="a list where one value is meant",
        ),
        pytest.param(
            {"domain__keys": "region"},
            "domain.keys: expected list of text; write [\"region\"], seen 'region'",
            id="one value where a list is meant",
        ),
        pytest.param(
            {"domain__min_rows": "many"},
            "domain.min_rows: expected whole number, seen 'many'",
            id="text for a number",
        ),
        pytest.param(
            {"splits": {"validation": {}}},
            "splits.validation: Input should be 'pretrain', 'pretrain_valid', 'pretrain_test', "
            "'tune', 'valid', 'gate' or 'test' (did you mean 'valid'?), seen 'validation'",
            id="a split's name",
        ),
        pytest.param(
            {"splits": {"test": {"dates": ["2026-10-32", "2026-11-02"]}}},
            "splits.test.dates.0: Input should be a valid date or datetime, day value is outside "
            "expected range, seen '2026-10-32'",
            id="no such date",
        ),
        pytest.param(
            {"presets": {"pretrain": {"optim": {"table_lr": 0.1}}}},
            "presets.pretrain.optim: a setting is a number, a text, true or false, or a list of "
            "whole numbers. One of a group is written under [presets.pretrain] as a dotted name in "
            'quotes: "optim.NAME" = ...',
            id="a group of settings",
        ),
        pytest.param(
            {"tasks": [{"label": "click", "matures_after": 7}]},
            "tasks.0.matures_after ('click'): a number has no unit; write \"P7D\" for 7 days, "
            "seen 7",
            id="days without a unit",
        ),
    ],
)
def test_a_line_says_where_what_was_seen_and_what_to_write(changes, line):
    lines = told(catalog_document(**changes)).splitlines()
    assert lines[0] == "one thing to fix:"
    assert lines[1].strip().startswith(line)
    assert len(lines) == 2


def test_sections_that_are_missing_are_named_as_toml_writes_them():
    assert told({}).splitlines()[1:] == [
        "  log: it is missing; add [log]",
        "  domain: it is missing; add [domain]",
        "  tasks: it is missing; add [[tasks]]",
        "  splits: it is missing; add [splits.NAME]",
    ]


def test_a_base_that_is_trained_here_needs_features():
    document = catalog_document()
    del document["features"]
    assert "features: expected at least 1; a base that is pre-trained here" in told(document)


def test_a_document_of_unknown_type_is_explained_in_pydantics_words():
    with pytest.raises(ValidationError) as refused:
        PretrainSpec.model_validate({"optim": {"table_lr": "fast"}})
    text = explain(refused.value)
    assert "optim.table_lr: Input should be a valid number" in text
    assert "catalog: it is required, and missing" in text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[[features]]\nname = 'a'\n[features]\nname = 'b'\n", "[[features]]"),
        ("[splits.gate]\n[splits.gate]\n", "may occur only once"),
        ("[log]\nname = shop\n", "Text stands in quotes"),
    ],
)
def test_what_toml_refuses_is_told_with_what_it_means_here(tmp_path, text, hint):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(BadRequest, match=r"is not TOML: .* \(at line") as refused:
        parse_catalog(path)
    assert hint in str(refused.value)
