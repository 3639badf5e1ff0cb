"""The index of all nights: order, states, and nights that cannot be read."""

import pytest

from iak.pipeline.report.index_page import index_page
from iak.pipeline.report.nights import NightFolder
from tests.nights import some_nights
from tests.unit.report.pages import Page, assert_alone


@pytest.fixture
def index(tmp_path):
    def made(*folders):
        text = index_page(folders, tmp_path)
        assert_alone(text)
        return Page(text)

    return made


def folder(tmp_path, record, name=""):
    return NightFolder(path=tmp_path / (name or str(record.night)), record=record)


def names(page):
    """Nominal date of every line, or its folder's name, from the top."""
    # Rows of the trends have no value to sort by.
    return [found["data-v"] for found in page.of("th", scope="row") if "data-v" in found]


def test_nights_stand_newest_first_whatever_their_folders_are_called(index, tmp_path):
    old, middle, new = some_nights(3, domains=1)
    page = index(
        folder(tmp_path, middle, "z"), folder(tmp_path, new, "a"), folder(tmp_path, old, "m")
    )
    assert names(page) == [str(night.night) for night in (new, middle, old)]


def test_a_repeated_night_stands_above_its_first_attempt(index, tmp_path):
    (first,) = some_nights(1, domains=1)
    later = first.started_at.replace(hour=9)
    again = first.model_copy(update={"started_at": later, "status": "failed", "error": "Disk full"})
    page = index(folder(tmp_path, first), folder(tmp_path, again, "again"))
    lines = page.text[page.text.index("Every night") :]
    assert lines.index("Disk full") < lines.index("finished")


def test_a_night_that_cannot_be_read_stands_last_with_its_problem(index, tmp_path):
    (record,) = some_nights(1, domains=1)
    broken = NightFolder(path=tmp_path / "2027-01-01", record=None, problem="bytes were changed")
    page = index(broken, folder(tmp_path, record))
    assert names(page) == [str(record.night), "2027-01-01"]
    assert "bytes were changed" in page.text


def test_only_pages_that_were_written_are_linked(index, tmp_path):
    with_page, without = some_nights(2, domains=1)
    path = tmp_path / str(with_page.night)
    path.mkdir()
    (path / "page.html").touch()
    page = index(folder(tmp_path, with_page), folder(tmp_path, without))
    links = [found["href"] for found in page.of("a") if found["href"].endswith("page.html")]
    assert links == [f"./{with_page.night}/page.html"]


def test_trends_are_of_one_service_with_more_than_one_night(index, tmp_path):
    one, two = some_nights(2, domains=1)
    other = two.model_copy(update={"name": "other shop"})
    kernels = "kernels by outcome"
    assert kernels in index(folder(tmp_path, one), folder(tmp_path, two)).text
    assert kernels not in index(folder(tmp_path, one)).text
    mixed = index(folder(tmp_path, one), folder(tmp_path, other))
    assert kernels not in mixed.text
    assert "other shop" in mixed.text
