"""Pages in a real headless Chromium: a phone's width, keys alone, both themes, no network."""

import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from iak.pipeline.report.nights import write_night
from iak.pipeline.report.pages import write_pages
from iak.pipeline.runs.report import write_report
from tests.evaluations import write_evaluation
from tests.nights import LAST, a_night, some_nights

pytestmark = pytest.mark.slow

playwright_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
WINDOW = {"width": 1200, "height": 900}
PAGES = ("night", "index", "evaluation", "hostile")
PATIENCE_S = 240
STORED_TRIES = 20
"""For what a busy machine takes long to do; Playwright gives up after 30 s."""
DARKEST, LIGHTEST = "rgb(19, 21, 24)", "rgb(252, 252, 250)"
"""The paper of each theme."""


def _find_chromium():
    """The browser's path; root on Debian gets its package where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found or os.geteuid() or not shutil.which("apt-get"):
        return found
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    try:
        subprocess.run(words, capture_output=True, timeout=200, check=False)
    except subprocess.TimeoutExpired:
        return None
    return shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    path = _find_chromium()
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed, and apt-get could not install one")
    with playwright_api.sync_playwright() as playwright:
        # A container has no user namespace for Chromium's sandbox.
        words = ["--no-sandbox"]
        browser = playwright.chromium.launch(
            executable_path=path, args=words, timeout=1e3 * PATIENCE_S
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Page -> its file: a night with its history, the index, an evaluation, and bad names."""
    nights = tmp_path_factory.mktemp("nights")
    for record in some_nights(4):
        folder = nights / str(record.night)
        folder.mkdir()
        write_night(record, folder)
    page = write_pages(folder)
    run = write_evaluation(tmp_path_factory.mktemp("runs") / "R3", domains=9, rows=6000)
    hostile = tmp_path_factory.mktemp("hostile") / "night"
    hostile.mkdir()
    name = "<img src=x onerror=document.title='run'>" + "long" * 100
    write_night(_renamed(a_night(domains=4), name), hostile)
    paths = {
        "night": page,
        "index": nights / "index.html",
        "evaluation": write_report(run),
        "hostile": write_pages(hostile),
    }
    return {name: path.as_uri() for name, path in paths.items()}


def _renamed(record, name):
    domains = [
        domain.model_copy(
            update={
                "decision": domain.decision.model_copy(update={"domain": [("city", f"{k}{name}")]}),
                "sentence": name,
            }
        )
        for k, domain in enumerate(record.domains)
    ]
    return record.model_copy(
        update={"domains": domains, "notices": [name], "night": LAST - timedelta(days=1)}
    )


class Visit:
    """One page in a context of its own, with everything that it asked for or complained about."""

    def __init__(self, browser, address, **settings):
        self.context = browser.new_context(viewport=settings.pop("viewport", DESK), **settings)
        self.context.set_default_timeout(1e3 * PATIENCE_S)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def column(self, number):
        """The sort keys of a column, in the order of the rows."""
        return self.page.eval_on_selector_all(
            "#table tbody tr", f"rows => rows.map(row => row.cells[{number}].dataset.v)"
        )

    def shown(self):
        """Classes of the rows that are visible."""
        return self.page.eval_on_selector_all(
            "#table tbody tr", "rows => rows.filter(r => r.offsetParent).map(r => r.className)"
        )

    def paper(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.fixture
def visit(browser):
    visits = []

    def begin(address, **settings):
        visits.append(Visit(browser, address, **settings))
        return visits[-1]

    yield begin
    for each in visits:
        each.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_asks_for_nothing(visit, addresses, name, scheme):
    on = visit(addresses[name], viewport=PHONE, color_scheme=scheme, offline=True)
    widest = on.page.evaluate("document.documentElement.scrollWidth")
    assert widest == PHONE["width"], "the page scrolls sideways"
    assert on.requests == [addresses[name]]
    assert on.complaints == []
    assert on.paper() == (DARKEST if scheme == "dark" else LIGHTEST)
    assert on.page.title() != "run"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_table_of_domains_fits_a_window_of_1200_pixels_with_all_columns(
    visit, addresses, scheme
):
    on = visit(addresses["night"], viewport=WINDOW, color_scheme=scheme)
    table = on.page.locator(".scroll:has(#table)")
    assert table.evaluate("part => part.scrollWidth - part.clientWidth") == 0
    heads = on.page.locator("#table thead th")
    assert heads.count() == on.page.locator("#table thead th:visible").count() == 14


def test_columns_sort_by_keys_alone_in_both_directions(visit, addresses):
    on = visit(addresses["night"])
    heads = on.page.eval_on_selector_all(
        "#table thead th", "heads => heads.map(h => [h.textContent.trim(), h.dataset.sort])"
    )
    number = next(k for k, (text, _) in enumerate(heads) if text.startswith("ctr"))
    head = on.page.locator("#table thead th").nth(number)
    head.locator("button").focus()
    for word, order in (("descending", -1), ("ascending", 1)):
        on.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == word
        values = [float(value) for value in on.column(number) if value]
        assert len(values) > 30
        assert values == sorted(values, key=lambda value: order * value)
        assert on.column(number)[len(values) :] == [""] * (41 - len(values)), "missing ones last"
    assert on.page.locator("th[aria-sort]").count() == 1
    assert on.complaints == []


def test_tab_begins_at_the_skip_link_and_reaches_the_filters(visit, addresses):
    on = visit(addresses["night"])
    on.page.keyboard.press("Tab")
    assert on.page.evaluate("document.activeElement.className") == "skip"
    on.page.keyboard.press("Enter")
    reached = set()
    for _ in range(60):
        on.page.keyboard.press("Tab")
        reached.add(on.page.evaluate("document.activeElement.id"))
    assert "show-all" in reached


def test_an_outcome_filters_the_table_by_arrow_keys(visit, addresses):
    on = visit(addresses["night"])
    on.page.locator("#show-all").focus()
    assert len(on.shown()) == 41
    on.page.keyboard.press("ArrowRight")
    on.page.keyboard.press("ArrowRight")
    assert on.page.evaluate("document.activeElement.id") == "show-held"
    held = sum(domain.outcome == "held" for domain in some_nights(4)[-1].domains)
    assert len(on.shown()) == held > 0
    assert all(row.startswith("held") for row in on.shown())


def test_a_name_finds_its_domain(visit, addresses):
    on = visit(addresses["night"])
    on.page.get_by_placeholder("Find a domain").fill("HANG")
    names = [domain.decision.name for domain in some_nights(4)[-1].domains]
    wanted = sum("hang" in name for name in names)
    assert len(on.shown()) == wanted > 1
    assert on.page.locator("#shown").inner_text() == f"{wanted} of 41 shown"


def test_a_link_opens_the_part_of_its_domain(visit, addresses):
    on = visit(addresses["night"])
    link = on.page.locator("#table tbody a").nth(7)
    target = link.get_attribute("href")
    assert not on.page.locator(f"details{target}").evaluate("part => part.open")
    link.press("Enter")
    # Asked from outside the page, whose policy forbids evaluating a script from a string.
    on.page.locator(f"details{target}[open]").wait_for()


def test_the_chosen_theme_wins_over_the_system_and_is_kept(visit, addresses):
    on = visit(addresses["night"], color_scheme="light")
    assert on.paper() == LIGHTEST
    on.page.locator("#theme-auto").focus()
    on.page.keyboard.press("ArrowLeft")
    assert on.paper() == DARKEST
    # The browser stores the choice a moment after the key, so the first reload may come too soon.
    for _ in range(STORED_TRIES):
        on.page.reload()
        if on.paper() == DARKEST:
            break
    assert on.paper() == DARKEST
    on.page.goto(addresses["index"])
    assert on.paper() == DARKEST


def test_without_scripts_everything_can_be_read(visit, addresses):
    on = visit(addresses["night"], java_script_enabled=False)
    page = on.page
    assert page.locator("#table tbody tr:visible").count() == 41
    assert page.locator("details.domain").count() == 41
    assert page.locator("input[type=search]:visible").count() == 0
    assert page.locator("thead button").count() == 0
    page.locator("label:has(#show-failed)").click()
    assert page.locator("#table tbody tr:visible").count() == 1
    page.locator("details.domain summary").first.click()
    assert page.locator("details.domain dl:visible").count() == 1


def test_an_injected_script_is_refused_by_the_policy(browser, addresses, tmp_path):
    text = Path(addresses["night"].removeprefix("file://")).read_text()
    path = tmp_path / "changed.html"
    path.write_text(text.replace("</main>", "<script>document.title='run'</script></main>"))
    on = Visit(browser, path.as_uri())
    assert on.page.title() != "run"
    if not on.complaints:  # the browser may still be about to say it
        on.page.wait_for_event("console")
    assert any("Content Security Policy" in said for said in on.complaints)
    on.context.close()
