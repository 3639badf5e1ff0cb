"""A breach is counted under the name that records have, and its remedy follows from its kind."""

import pytest

from iak.pipeline.data.breaches import REMEDIES, Breach, Kind, named


@pytest.mark.parametrize(
    ("breach", "name"),
    [
        (Breach.of(Kind.NULL_USER, "user_id"), "quarantine: null user in user_id"),
        (Breach.of(Kind.OUT_OF_RANGE, "slot"), "warn: id out of range in slot"),
        (Breach(Kind.NO_CLICK, "order without click"), "quarantine: order without click"),
    ],
)
def test_a_record_names_level_and_text(breach, name):
    assert named({breach: 3}) == {name: 3}


def test_a_column_whose_name_reads_like_another_breach_keeps_its_own_remedy():
    breach = Breach.of(Kind.NULL_USER, "price beyond float32")
    assert REMEDIES[breach.kind].startswith("Fill the user")


def test_every_kind_that_a_check_may_find_has_a_remedy():
    adopted = {Kind.NO_LOGIT, Kind.NO_ACTIVATIONS}  # `iak adopt` says what to do about them
    assert REMEDIES.keys() == set(Kind) - adopted
