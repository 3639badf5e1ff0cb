"""The pages of a night and the index: what they hold, parsed, and that nothing leaves the file."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import Corrupt
from iak.pipeline.report.night_page import night_page
from iak.pipeline.report.nights import RECORD, read_night, write_night
from iak.pipeline.report.pages import write_index, write_pages
from iak.schemas.night import RefreshResult
from iak.schemas.record import Machine
from iak.schemas.traffic import NightTraffic
from iak.schemas.tuning import OutsideLoss
from tests.nights import LAST, NEEDED, a_night, a_replay, some_nights
from tests.unit.report.pages import Page, assert_alone


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


def test_every_chain_says_how_far_it_is_and_what_is_needed(page):
    judged = [d for d in some_nights()[-1].domains if d.log_evidence is not None]
    unproved = [d for d in judged if d.proved_on is None]
    assert 0 < len(unproved) < len(judged)
    for domain in unproved:
        evidence = f"{domain.log_evidence:.2f} of {NEEDED:.2f}"
        assert page.text.count(evidence) >= 2, "in the table and in the domain's own part"
    assert "reaches log(1/alpha)" in page.text
    assert page.text.count("the newest 24 hours: 1,204 gate rows") == len(judged)


def test_a_collapsed_code_is_named_and_every_code_is_described(page):
    coded = [d for d in some_nights()[-1].domains if d.code]
    (flawed,) = (d for d in coded if d.code.flaw())
    assert f"{flawed.decision.name}: {flawed.code.flaw()}" in page.text
    assert page.text.count("units active") == len(coded)


def test_what_kernels_borrow_and_forget_stands_where_it_was_measured(page, tmp_path):
    for words in ("borrows from its parent", "outside its domain"):
        assert words not in page.text
    record = a_night(domains=2)
    pooled, *domains = record.domains
    costs = [OutsideLoss(rows=400, change=change, error=0.001) for change in (0.0301, -0.004)]
    measured = [
        domain.model_copy(update={"own_share": 0.37, "outside": cost})
        for domain, cost in zip(domains, costs, strict=True)
    ]
    night = record.model_copy(update={"domains": [pooled, *measured]})
    text = Page(night_page(night, [], tmp_path)).text
    assert text.count("of its own change is kept") == 2
    assert all(cost.words() in text for cost in costs)
    assert f"kernel of {domains[0].decision.name}" in text
    assert "+0.0301" in text


def test_auc_within_users_stands_beside_auc_where_a_night_has_it(page, tmp_path):
    score = some_nights()[-1].domains[0].scores[0]
    assert " / ".join(f"{value:.4f}" for value in score.gauc) in page.text
    assert "; within users +0.0" in page.text
    record = a_night(domains=1)
    domain = record.domains[1]
    scores = [each.model_copy(update={"gauc": (None,) * 3}) for each in domain.scores]
    without = [domain.model_copy(update={"scores": scores})]
    text = night_page(record.model_copy(update={"domains": without}), [], tmp_path)
    assert "within users" not in text


def test_links_inside_the_page_lead_somewhere(page):
    ids = page.ids
    assert len(ids) == len(set(ids)), "an identifier is used twice"
    inside = {found["href"][1:] for found in page.of("a") if found["href"].startswith("#")}
    assert inside <= set(ids)


def test_the_page_stands_alone(text):
    assert_alone(text)
    assert "http://" not in text
    assert "https://" not in text


def test_a_chart_has_a_name_and_the_page_a_table_of_the_same_numbers(page):
    charts = page.of("svg", role="img")
    assert len(charts) > 41
    assert all(len(found["aria-label"]) > 20 for found in charts)
    assert "The same as a table" in page.text


def test_a_page_of_forty_domains_is_small(text):
    assert len(text.encode()) < 400_000


def test_the_index_has_every_night_newest_first(nights):
    text = (nights / "index.html").read_text()
    assert_alone(text)
    index = Page(text)
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
    write_night(record, tmp_path / "night")
    page = Page(write_pages(tmp_path / "night").read_text())
    assert "The night failed: Disk full: /nights has 0 bytes left." in page.text


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title><h1>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\u202eevil\u2066 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "a" * 4000,
    "&lt;b&gt;&amp;amp;",
    "https://elsewhere.example/x",
)


def _with_names(record, name):
    """A record in which every text from the log, from an error or from a person is `name`."""
    domain = record.domains[1]
    decision = domain.decision.model_copy(update={"domain": [(name, name)], "reason": name})
    scores = [each.model_copy(update={"task": name}) for each in domain.scores]
    hostile = domain.model_copy(update={"decision": decision, "sentence": name, "scores": scores})
    return record.model_copy(
        update={
            "domains": [hostile, hostile.model_copy(update={"outcome": "failed"})],
            "drift": [record.drift[0].model_copy(update={"name": name})],
            "days": [record.days[0].model_copy(update={"reason": name, "state": "shrunken"})],
            "windows": [record.windows[0].model_copy(update={"task": name})],
            "shadow": a_replay(task=name),
            "unseen": {name: 0.1},
            "timings_s": {name: 3.0},
            "notices": [name],
            "versions": {name: name},
            "machine": Machine.model_validate({"processor": name, f"of {name}": name}),
            "run_dir": name,
            "base": name,
            "registry": name,
            "refresh": RefreshResult(
                reason=name, published=False, run_dir=name, carried=[name], dropped=[name]
            ),
        }
    )


def _page_with(name, folder):
    nights = [_with_names(a_night(LAST - timedelta(days=back), domains=1), name) for back in (1, 0)]
    return night_page(nights[1], nights[:1], folder)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_text_and_adds_no_element(name, tmp_path):
    text = _page_with(name, tmp_path)
    page, plain = Page(text), Page(_page_with("plain", tmp_path))
    assert_alone(text)
    assert name in page.text
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_through_unchanged(name):
    record = _with_names(a_night(domains=1), name or "x")
    shown = " ".join(Page(night_page(record, [], Path("/nowhere"))).text.split())
    assert " ".join((name or "x").replace("\0", "\ufffd").split()) in shown


def test_a_bundle_leads_to_its_folder_while_the_registry_holds_it(tmp_path):
    record = a_night(domains=2).model_copy(update={"registry": str(tmp_path / "registry")})
    kept, gone = (domain.bundle for domain in record.domains[:2])
    for name in (f"{kept}-first", f"{kept}-second"):
        (tmp_path / "registry" / "bundles" / name).mkdir(parents=True)
    os.utime(tmp_path / "registry" / "bundles" / f"{kept}-first", (0, 0))
    page = Page(night_page(record, [], tmp_path / "nights" / "night"))
    links = [found["href"] for found in page.of("a")]
    assert f"./../../registry/bundles/{kept}-second" in links
    assert not any(gone in link or link.endswith("first") for link in links)


def test_a_page_of_very_many_domains_stays_within_bounds(tmp_path):
    record = a_night(domains=800)
    text = night_page(record, [a_night(LAST - timedelta(days=1), domains=800)], tmp_path)
    assert "500 of 801 domains are shown" in Page(text).text
    assert len(text.encode()) < 1_300_000


def test_a_replay_says_what_changed_and_which_limit_did_not_hold(page, tmp_path):
    assert "Replay before the promotion" not in page.text
    record = a_night(domains=2).model_copy(update={"shadow": a_replay()})
    text = Page(night_page(record, [], tmp_path)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "tonight's kernels against the live ones: 1 kernel held, and 2 passes" in text
    assert "ctr+0.00210.971+0.00121.0121.004" in text
    assert "mean_changecity=wuxictr0.03120.0200" in text
    passed = a_replay(against="base", exceeded=[], held={}, replays=1)
    record = record.model_copy(update={"shadow": passed})
    text = Page(night_page(record, [], tmp_path)).text
    assert "against the base alone: 1 pass." in text
    assert "Limits that did not hold" not in text


def test_the_cost_names_what_went_between_machines_where_anything_did(page, tmp_path):
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "read from object stores48.1 MB 412 objects" in text
    assert "other machines to the driver7.71 MB 96 files" in text
    alone = a_night(domains=1).model_copy(update={"traffic": NightTraffic()})
    assert "Bytes between machines" not in night_page(alone, [], tmp_path)
