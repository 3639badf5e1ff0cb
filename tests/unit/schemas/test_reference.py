"""The reference of the catalogue: current, complete, and its examples are what they claim."""

import datetime
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter

from iak.schemas.log import Catalog
from iak.schemas.reference import EXAMPLE, EXAMPLES, SECTIONS, reference, type_name

PAGE = Path(__file__).parents[3] / "schemas" / "README.md"
DOCUMENTS: tuple[type[BaseModel], ...] = tuple(document for _, _, document in SECTIONS)


def test_the_committed_page_is_what_the_documents_say():
    assert PAGE.read_text() == reference(), (
        "run python -m iak.schemas.reference > schemas/README.md"
    )


def test_the_whole_example_is_a_catalogue():
    catalog = Catalog.model_validate(tomllib.loads(EXAMPLE))
    assert set(catalog.splits) >= {"pretrain", "tune", "gate", "test"}
    assert EXAMPLE.strip() in reference()


def rows():
    return [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.__name__)
def test_every_key_has_a_line_with_a_meaning(document):
    keys = [cells[0].strip("| `") for cells in rows()]
    assert set(document.model_fields) <= set(keys)
    assert all(len(cells[3].strip()) > 10 for cells in rows())


@pytest.mark.parametrize(
    ("document", "name"),
    [key for key in EXAMPLES if key[1] in key[0].model_fields],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_every_example_is_a_value_that_the_key_takes(document, name):
    value = tomllib.loads(f"x = {EXAMPLES[document, name]}")["x"]
    field = document.model_fields[name]
    TypeAdapter(field.rebuild_annotation()).validate_python(value)
    assert f"`{name} = {EXAMPLES[document, name]}`".replace("|", "\\|") in reference()


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str | None, "text"),
        (tuple[str, ...], "list of text"),
        (tuple[tuple[str, ...], ...], "list of lists of text"),
        (tuple[int, int], "[whole number, whole number]"),
        (dict[str, float], "table of number"),
        (datetime.timedelta | None, "ISO 8601 duration"),
    ],
)
def test_types_are_said_in_words(annotation, expected):
    assert type_name(annotation) == expected
