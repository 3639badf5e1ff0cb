"""The style sheet: its colours can be told apart from their ground, in both themes (WCAG 2.2)."""

import re
from pathlib import Path

import pytest

from iak.pipeline.report import rendering

CSS = (Path(rendering.__file__).with_name("templates") / "page.css").read_text()
PAIR = re.compile(r"--(\w+): light-dark\(#([0-9a-f]{6}), #([0-9a-f]{6})\);")
COLOURS = {name: (light, dark) for name, light, dark in PAIR.findall(CSS)}
TEXT, MARKS = ("ink", "muted", "link"), ("promoted", "held", "failed", "waiting", "past", "accent")


def luminance(colour):
    channels = [int(colour[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_the_standard():
    assert contrast("ffffff", "000000") == pytest.approx(21)
    assert contrast("767676", "ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_text_and_marks_stand_out(theme, ground):
    below = COLOURS[ground][theme]
    texts = {name: contrast(COLOURS[name][theme], below) for name in TEXT}
    marks = {name: contrast(COLOURS[name][theme], below) for name in MARKS}
    assert min(texts.values()) >= 4.5, texts
    assert min(marks.values()) >= 3, marks


def test_every_colour_is_a_pair_and_has_a_name():
    rest = PAIR.sub("", CSS)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?!-)", re.sub(r":has\([^)]*\)", "", rest))
    used = set(re.findall(r"var\(--(\w+)", CSS))
    assert used <= {*COLOURS, "mark"}
    assert {*COLOURS} <= used
