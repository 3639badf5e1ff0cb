"""`iak report`: the page of an evaluation from its folder, and a night's page made again."""

import shutil

import pytest

from iak.jobs import cli
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.publish.predictions import read_predictions
from iak.pipeline.report.nights import write_night
from iak.pipeline.runs.report import curves_of, read_metrics, write_report
from tests.evaluations import write_evaluation
from tests.nights import a_night
from tests.unit.report.pages import Page, assert_alone


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("runs") / "R3", domains=6, rows=6000)


@pytest.fixture(scope="module")
def text(run):
    return write_report(run).read_text()


def test_every_domain_has_its_metrics_as_the_file_has_them(run, text):
    page = Page(text)
    assert_alone(text)
    for row in read_metrics(run):
        if row.method == "iak":
            assert row.domain in page.text
            assert f"{row.auc:.4f}" in page.text
            ends = (row.delta_auc, row.delta_auc_low, row.delta_auc_high)
            value, low, high = (f"{end:+.4f}".replace("-", "\N{MINUS SIGN}") for end in ends)
            assert f"{value} [{low}, {high}]" in page.text
    assert "held: gain within noise" in page.text


def test_the_first_sentence_counts_whole_intervals(run, text):
    own = [r for r in read_metrics(run) if r.method == "iak" and r.domain.startswith("city=")]
    better = sum(row.delta_auc_low > 0 for row in own)
    assert better > 0
    assert f"rank better than the base in {better} of {len(own)} domains" in Page(text).text


def test_curves_have_every_row_of_every_method(run):
    curves = curves_of(read_predictions(run, "test"))["ctr"]
    assert {method: sum(n for *_, n in curve) for method, curve in curves.items()} == {
        "base": 6000,
        "iak": 6000,
        "iak_published": 6000,
    }


def test_the_verb_writes_where_it_is_told(run, tmp_path, capsys):
    out = tmp_path / "new" / "e.html"
    assert cli.run(["report", str(run), f"out={out}"]) == 0
    assert str(out) in "".join(capsys.readouterr().out.split("\n"))
    assert "Calibration of ctr" in Page(out.read_text()).text


def test_without_predictions_the_page_has_no_curves(run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    shutil.rmtree(bare / "predictions")
    page = Page(write_report(bare).read_text())
    assert "Calibration of" not in page.text
    assert "not there" in page.text


def test_an_evaluation_of_the_base_alone_has_a_page(tmp_path):
    run = write_evaluation(tmp_path / "R", domains=3, rows=900, methods=("base",))
    assert "this is the base alone" in Page(write_report(run).read_text()).text


def test_a_hostile_domain_is_text(tmp_path):
    names = ("<script>alert(1)</script>", '"><b>', "{{ 1 }}")
    run = write_evaluation(tmp_path / "R", domains=3, rows=900, names=names.__getitem__)
    text = write_report(run).read_text()
    assert_alone(text)
    assert all(name in Page(text).text for name in names)


def test_a_nights_page_is_made_again(tmp_path):
    night = tmp_path / "nights" / "2026-10-28"
    night.mkdir(parents=True)
    write_night(a_night(domains=2), night)
    page = write_report(night)
    assert page == night / "page.html"
    assert (night.parent / "index.html").is_file()
    elsewhere = write_report(night, tmp_path / "copy.html")
    assert "Wednesday, 28 October 2026" in Page(elsewhere.read_text()).text
    assert not (tmp_path / "index.html").exists()


def test_a_folder_that_is_neither_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(BadRequest, match=r"no record of a run; expected .* iak evaluate"):
        write_report(tmp_path)


def test_metrics_that_cannot_be_read_are_named(run, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "metrics.json").write_text('[{"method": "base"}]')
    with pytest.raises(Corrupt, match=r"metrics\.json cannot be read.*Evaluate again"):
        write_report(broken)
