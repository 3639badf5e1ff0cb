"""A message names what the reader may have meant, and no more than can be read."""

import pytest

from iak.pipeline.data.nearest import listed, nearest, refuse_unknown_settings
from iak.pipeline.errors import BadRequest


def test_the_likest_name_comes_first():
    sentence = nearest("user_ids", ["item_id", "user_id", "scene"])
    assert sentence.startswith(" Did you mean 'user_id'")
    assert "scene" not in sentence


def test_case_does_not_hide_a_name_which_is_shown_as_it_is():
    assert nearest("USERID", ["userId"]) == " Did you mean 'userId'?"


def test_a_name_like_none_gets_no_suggestion():
    assert nearest("zzz", ["user_id", "item_id"]) == ""


def test_at_most_three_names_are_suggested():
    assert nearest("ab1", [f"ab{i}" for i in range(9)]).count(" or ") == 2


@pytest.mark.parametrize(("count", "more"), [(40, ""), (41, ", and 1 more"), (99, ", and 59 more")])
def test_a_listing_stops_after_forty_names(count, more):
    names = [f"n{i:02}" for i in range(count)]
    assert listed(reversed(names)) == ", ".join(names[:40]) + more


def test_known_settings_pass():
    refuse_unknown_settings(["lr", "stages.click.lr"], ["lr", "stages."], "job.toml")


def test_each_unknown_setting_is_named_with_what_exists():
    with pytest.raises(BadRequest) as error:
        refuse_unknown_settings(["seed", "lrr", "stage.x"], ["seed", "lr", "stages."], "job.toml")
    lines = str(error.value).splitlines()
    assert lines[0] == "unknown settings:"
    assert lines[1] == "  job.toml names 'lrr', which is not a setting. Did you mean 'lr'?"
    assert lines[2].startswith("  job.toml names 'stage.x', which is not a setting.")
    assert len(lines) == 3


def test_a_name_that_ends_with_a_point_admits_only_what_lies_below():
    with pytest.raises(BadRequest, match="'stages'"):
        refuse_unknown_settings(["stages"], ["stages."], "job.toml")
