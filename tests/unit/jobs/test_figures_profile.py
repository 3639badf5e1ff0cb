"""The picture of a profile shows its numbers: rows and rates by day or by split, and drift."""

import dataclasses

import pytest
from matplotlib.figure import Figure

from iak.jobs.figures_profile import draw_profile
from iak.pipeline.data.profile import Drift, Labels, Profile, SplitProfile
from tests.builders import small_catalog


def part(split, part_, rows, clicks):
    labels = (Labels(task="click", rows=rows, positives=clicks),)
    return SplitProfile(split=split, part=part_, rows=rows, labels=labels)


PROFILE = Profile(
    splits=(part("tune", "all", 300, 30), part("gate", "all", 100, 20)),
    domains=(), domain_counts={}, undecided={}, new_ids=(), drift=(), counted={}, sampled={},
    days=(
        part("tune", "2026-10-01", 100, 10), part("tune", "2026-10-02", 200, 20),
        part("gate", "2026-10-02", 100, 20), part("gate", "(no date)", 5, 0),
    ),
    pretrain_ids_share=1.0,
)  # fmt: skip


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw a profile; the figure, as it was written."""
    figures = []
    savefig = Figure.savefig

    def kept(self, *args, **kwargs):
        figures.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", kept)

    def draw(**changes):
        path = tmp_path / "p.png"
        draw_profile(dataclasses.replace(PROFILE, **changes), small_catalog(), path)
        assert path.read_bytes().startswith(b"\x89PNG")
        return figures[-1]

    return draw


def test_rows_of_a_day_stand_on_each_other_split_by_split(drawn):
    rows, rates = drawn().axes
    assert rows.get_title(loc="left") == "Rows by day"
    bars = [(bar.get_y(), bar.get_height()) for bar in rows.patches]
    assert bars == [(0, 100), (0, 200), (100, 0), (200, 100)], "a day of no date is left out"
    assert [text.get_text() for text in rows.get_legend().get_texts()] == ["tune", "gate"]
    (line,) = rates.get_lines()
    assert line.get_ydata() == pytest.approx([0.1, 40 / 300]), "over all splits of the day"


def test_without_days_rows_and_rates_are_those_of_splits(drawn):
    rows, rates = drawn(days=()).axes
    assert rows.get_title(loc="left") == "Rows by split"
    assert [bar.get_width() for bar in rows.patches] == [300, 100]
    assert [bar.get_height() for bar in rates.patches] == pytest.approx([0.1, 0.2])


def test_drift_is_a_bar_a_feature_and_window(drawn):
    def moved(feature, before, after, index):
        return Drift(
            feature=feature, before=before, after=after, index=index, noise=0.0, word="moved"
        )

    drift = (moved("price", "pretrain", "tune", 0.3), moved("age", "pretrain", "tune", 0.1))
    drift += (moved("price", "tune", "gate", 0.2),)
    panel = drawn(drift=drift).axes[2]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["price", "age"]
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([0.3, 0.1, 0.2, 0.0])


def test_the_title_says_how_many_rows_there_are(drawn):
    assert drawn().get_suptitle() == "log 'small' · 400 rows in 2 splits"
