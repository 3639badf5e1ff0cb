"""Statistics in a catalogue: what they are called, and what a catalogue cannot mean."""

import pytest
from pydantic import ValidationError

from iak.schemas.fresh import CountsSpec
from tests.builders import small_catalog

PAIR = {"kind": "co_occurrence", "pair": ["item_id", "hist"]}


def test_a_table_without_a_kind_is_counts_and_crosses_the_domain():
    catalog = small_catalog(fresh=[{"keys": ["item_id"], "windows": ["P1D", "all"]}, PAIR])
    assert isinstance(catalog.fresh[0], CountsSpec)
    assert catalog.fresh_keys == ((), ("item_id",), ("item_id", "region"))
    names = catalog.fresh_names
    assert len(names) == 2 * 2 * 2 * 2 + 4  # keys, windows, rates, two numbers; a lift's four
    assert names[0] == "log-odds of item_id P1D ctr"
    assert names[-1] == "hits of item_id with hist"


def test_a_parent_is_the_key_without_its_last_column():
    spec = CountsSpec(keys=("user_id", "scene"))
    above = ((), ("user_id",), ("user_id", "scene"))
    assert spec.chains(("region",)) == (above, (*above, ("user_id", "scene", "region")))
    assert spec.chains(("scene",)) == (above,)
    assert CountsSpec(keys=("item_id",), cross_domain=False).chains(("region",)) == (
        ((), ("item_id",)),
    )


def test_a_catalogue_without_statistics_is_written_as_before():
    assert "fresh" not in small_catalog().model_dump(mode="json")
    catalog = small_catalog(fresh=[{"keys": ["item_id"]}, PAIR])
    assert type(catalog).model_validate_json(catalog.model_dump_json()) == catalog


@pytest.mark.parametrize(
    ("fresh", "message"),
    [
        ({"keys": ["itm_id"]}, "no categorical feature, cross or domain reads"),
        ({"keys": ["price"]}, "a key is an id that rows share"),
        ({"keys": ["click"]}, "a key is an id that rows share"),
        ({"keys": ["item_id", "item_id"]}, "named twice"),
        ({"keys": ["item_id"], "windows": ["PT6H"]}, "greater than or equal to 1 day"),
        ({"keys": ["item_id"], "windows": ["P1DT6H"]}, "no whole number of days"),
        ({"keys": ["item_id"], "tasks": ["clicks"]}, "the log has ctr, cvr, ctcvr"),
        ({"kind": "co_occurrence", "pair": ["price", "hist"]}, "two tables"),
        ({"kind": "co_occurrence", "pair": ["slot", "hist"]}, "two tables"),
        ({"kind": "co_occurrence", "pair": ["item_id", "user_id"]}, "no list feature reads"),
        ({"kind": "lift", "keys": ["item_id"]}, "co_occurrence"),
    ],
)
def test_what_a_log_does_not_have_is_refused(fresh, message):
    with pytest.raises(ValidationError, match=message):
        small_catalog(fresh=[fresh])


def test_windows_need_days():
    undated = {"log__date_key": None, "log__event_time": None}
    with pytest.raises(ValidationError, match="counts days, but the log has no date_key"):
        small_catalog(**undated, fresh=[{"keys": ["item_id"], "windows": ["P1D"]}])
    with pytest.raises(ValidationError, match="twice; declare each once"):
        small_catalog(fresh=[{"keys": ["item_id"]}, {"keys": ["item_id"], "cross_domain": False}])
