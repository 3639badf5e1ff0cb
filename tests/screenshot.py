"""Take the picture of a morning page: `python -m tests.screenshot infra/morning_page.png`."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from iak.pipeline.report.nights import write_night
from iak.pipeline.report.pages import write_pages
from tests.nights import some_nights

VIEW = {"width": 1200, "height": 2255}


def picture(chromium="/usr/bin/chromium"):
    """The top of a plausible night's page."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        for record in some_nights(domains=20):
            folder = Path(place) / str(record.night)
            folder.mkdir()
            write_night(record, folder)
        page = write_pages(folder)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport=VIEW, color_scheme="light")
        tab.goto(page.as_uri())
        shot = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        browser.close()
    return shot


if __name__ == "__main__":
    picture().quantize(255, dither=Image.Dither.NONE).save(sys.argv[1], optimize=True)
