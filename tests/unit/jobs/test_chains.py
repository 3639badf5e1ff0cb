"""What is shown of chains: the most promising first, and no more than a table has room for."""

from datetime import date

import pytest

from iak.jobs.chains import MAX_CHAINS, chain_row, show_chain, show_chains
from tests.unit.registry.test_chains import chain


def named(city, **changes):
    return chain(3, domain={"city": city}).model_copy(update=changes)


def test_the_nearest_to_proved_come_first_and_the_proved_ones_last(capsys):
    proved = named("proved", proved_on=date(2026, 10, 2), proved_by="many nights", needed=3.0)
    far, near = (
        chain(3, domain={"city": city}, wealth=wealth).model_copy(update={"needed": 3.0})
        for city, wealth in (("far", -1.0), ("near", 2.0))
    )
    show_chains([proved, far, near])
    said = capsys.readouterr().out
    assert said.index("near") < said.index("far") < said.index("proved")


def test_of_very_many_chains_some_are_counted_only(capsys):
    show_chains([named(f"c{k}") for k in range(MAX_CHAINS + 3)])
    assert "3 more; json= writes all" in " ".join(capsys.readouterr().out.split())


def test_a_row_has_dates_as_text():
    row = chain_row(named("rome", proved_on=date(2026, 10, 2)))
    assert row.domain == "city=rome"
    assert (row.began, row.proved_on) == ("2026-10-01", "2026-10-02")
    assert row.nights == 2


@pytest.mark.parametrize(
    ("gain", "low", "said"),
    [
        (None, None, "-"),
        (0.0123, None, "+0.01230 nats a row over the base"),
        (0.0123, 0.01, "at least +0.01000"),
    ],
)
def test_one_chain_says_its_gain_as_far_as_it_is_known(capsys, gain, low, said):
    show_chain(named("rome", gain=gain, gain_low=low))
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert ("at least" in shown) == (low is not None)
