"""The pages of a night and the index: what they hold, parsed, and that nothing leaves the file."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from iak.pipeline.errors import Corrupt
from iak.pipeline.report.nights import RECORD, read_night, write_night
from iak.pipeline.report.pages import write_index, write_pages
from tests.nights import LAST, a_night, some_nights

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and text; a tag that is not closed is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def of(self, tag, **attributes):
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(k.strip("_")) == v for k, v in attributes.items())
        ]

    def ids(self):
        return [found["id"] for _, found in self.elements if "id" in found]


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A folder of fifteen nights, each with its page."""
    folder = tmp_path_factory.mktemp("nights")
    for record in some_nights():
        night = folder / str(record.night)
        night.mkdir()
        write_night(record, night)
        (night / "page.html").touch()
    write_pages(night)
    return folder


@pytest.fixture(scope="module")
def text(nights):
    return (nights / str(LAST) / "page.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_one_glance_has_every_outcome_with_its_number(page):
    record = some_nights()[-1]
    counts = record.counts
    said = (
        f"{counts['promoted']} of 41 kernels promoted, {counts['held']} held, "
        f"{counts['failed']} failed, {counts['waiting']} did not train"
    )
    assert said in page.text


def test_every_domain_has_a_line_and_a_part_that_the_line_leads_to(page):
    record = some_nights()[-1]
    parts = [found["id"] for found in page.of("details", class_="domain")]
    links = [found["href"] for found in page.of("a")]
    assert len(parts) == len(record.domains) == 41
    assert {f"#{part}" for part in parts} <= set(links)
    for domain in record.domains:
        assert domain.sentence in page.text
        assert domain.decision.reason in page.text


def test_links_inside_the_page_lead_somewhere(page):
    ids = page.ids()
    assert len(ids) == len(set(ids)), "an identifier is used twice"
    inside = {found["href"][1:] for found in page.of("a") if found["href"].startswith("#")}
    assert inside <= set(ids)


def test_nothing_is_loaded_from_elsewhere(page, text):
    loading = [
        found[name]
        for _, found in page.elements
        for name in ("src", "srcset", "action", "data", "poster")
        if name in found
    ]
    assert not loading
    assert not page.of("link")
    links = [f["href"] for tag, f in page.elements if "href" in f]
    assert [link for link in links if not link.startswith(("#", "../", "./"))] == []
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_policy_names_the_one_style_and_the_one_script(page, text):
    (policy,) = [f["content"] for f in page.of("meta") if f.get("http-equiv")]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert len(page.of("style")) == len(page.of("script")) == 1
    assert " style=" not in text, "the policy blocks the attribute"
    assert not re.search(r" on[a-z]+=", text), "the policy blocks handlers"


def test_a_chart_has_a_name_and_the_page_a_table_of_the_same_numbers(page):
    charts = page.of("svg", role="img")
    assert len(charts) > 41
    assert all(len(found["aria-label"]) > 20 for found in charts)
    assert "The same as a table" in page.text


def test_a_page_of_forty_domains_is_small(text):
    assert len(text.encode()) < 400_000


def test_the_index_has_every_night_newest_first(nights):
    index = Page((nights / "index.html").read_text())
    pages = [f["href"] for f in index.of("a") if f["href"].endswith("page.html")]
    assert pages == [f"./{LAST - timedelta(days=back)}/page.html" for back in range(15)]


def test_a_night_that_cannot_be_read_is_named_in_the_index_and_stops_no_page(tmp_path):
    for record in some_nights(2, domains=2):
        folder = tmp_path / str(record.night)
        folder.mkdir()
        write_night(record, folder)
    damaged = tmp_path / str(LAST - timedelta(days=1)) / RECORD
    damaged.write_bytes(damaged.read_bytes().replace(b'"shop"', b'"shoe"'))
    write_pages(tmp_path / str(LAST))
    index = Page((tmp_path / "index.html").read_text())
    assert "unreadable" in index.text
    assert "SHA-256" in index.text
    with pytest.raises(Corrupt, match="Restore it from a copy"):
        read_night(damaged.parent)


def test_an_empty_folder_has_an_index(tmp_path):
    assert "no night in this folder yet" in write_index(tmp_path).read_text()


def test_a_page_follows_from_the_records_alone(nights):
    page = nights / str(LAST) / "page.html"
    before = page.read_bytes()
    write_pages(page.parent)
    assert page.read_bytes() == before


def test_a_night_without_anything_tuned_has_a_page(tmp_path):
    record = a_night(domains=3).model_copy(
        update={
            "domains": [], "drift": [], "days": [], "windows": [], "unseen": {}, "timings_s": {},
            "notices": [], "run_dir": None, "registry_after": None, "ended_at": None,
            "status": "failed", "error": "Disk full: /nights has 0 bytes left\nTraceback ...",
        }
    )  # fmt: skip
    (tmp_path / "night").mkdir()
    page = Page(write_pages(tmp_path / "night", record).read_text())
    assert "The night failed: Disk full: /nights has 0 bytes left." in page.text
