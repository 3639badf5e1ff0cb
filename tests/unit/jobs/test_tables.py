"""What a job prints at its end: every cell, whatever it holds, as wide as a file can take it."""

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from iak.jobs import tables
from iak.jobs.tables import largest, number, show_facts, show_table


@pytest.fixture
def said(monkeypatch):
    """A console that writes to memory, 60 characters wide, and what it has written."""
    file = io.StringIO()
    monkeypatch.setattr(tables, "console", Console(file=file, width=60, highlight=False))
    return file


def test_facts_are_a_line_each_below_their_title(said):
    show_facts("a title", {"rows": "7", "by split": {"tune": 3, "gate": 4}})
    assert said.getvalue() == "a title\n  rows: 7\n  by split: tune: 3  gate: 4\n"


@pytest.mark.parametrize("text", ["[bold]", "[/]", "region=[a]", "[red]x[/red]"])
def test_brackets_of_names_are_text_and_no_style(said, text):
    show_facts(text, {"at": text})
    show_table(text, (text, "rows"), [(text, "1")], caption=text)
    assert said.getvalue().count(text) == 6


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 150))
def test_a_table_in_a_file_is_as_wide_as_its_cells_and_the_console_as_before(said, width):
    word = "w" * width
    show_table("t", ("name", "rows"), [(word, "12345")])
    assert any(word in line and "12345" in line for line in said.getvalue().splitlines())
    assert tables.console.width == 60


def test_a_table_wider_than_a_line_is_folded(said):
    show_table("t", ("name", "rows"), [("x" * 300, "12345")])
    lines = said.getvalue().splitlines()
    assert max(map(len, lines)) == 200
    assert sum(line.count("x") for line in lines) == 300


def cells(said, **how):
    """A one-row table's cells with the blanks around them."""
    show_table("t", ("a" * 9, "b" * 9, "c" * 9), [("x", "y", "z")], **how)
    (line,) = [line for line in said.getvalue().splitlines() if "x" in line]
    return [cell.rstrip() if cell[1] != " " else cell for cell in line.split("│")[1:-1]]


@pytest.mark.parametrize(
    ("how", "is_left"),
    [
        ({}, [True, False, True]),
        ({"ends_in_number": True}, [True, False, False]),
        ({"text": ("b" * 9,)}, [True, True, True]),
    ],
)
def test_numbers_stand_right_and_text_left(said, how, is_left):
    assert [cell.startswith((" x", " y", " z")) for cell in cells(said, **how)] == is_left


@given(
    rows=st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 9), max_size=12),
    most=st.integers(0, 5),
    always=st.sets(st.sampled_from(["a", "b", "zz"])),
)
def test_the_largest_are_shown_in_their_order_and_summaries_always(rows, most, always):
    shown = largest(rows, most, always=always)
    assert shown == [name for name in rows if name in shown], "in their order"
    assert always & rows.keys() <= set(shown)
    domains = [name for name in shown if name not in always]
    hidden = rows.keys() - set(shown)
    assert len(domains) == min(most, len(rows.keys() - always))
    assert all(rows[one] >= rows[other] for one in domains for other in hidden)


@pytest.mark.parametrize(
    ("value", "how", "text"),
    [
        (None, {}, "-"), (None, {"sign": True}, "-"), (0.12345, {}, "0.1235"),
        (0.12345, {"digits": 2}, "0.12"), (1.0, {"sign": True}, "+1.0000"),
        (-1.0, {"digits": 1, "sign": True}, "-1.0"),
    ],
)  # fmt: skip
def test_a_number_is_rounded_and_a_dash_where_there_is_none(value, how, text):
    assert number(value, **how) == text
