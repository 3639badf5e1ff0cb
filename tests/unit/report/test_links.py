from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iak.pipeline.report.links import relative_link


def test_a_file_is_linked_from_the_page_s_folder(tmp_path):
    (tmp_path / "nights" / "one").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    assert relative_link(tmp_path / "run", tmp_path / "nights" / "one") == "./../../run"
    assert relative_link(str(tmp_path / "run"), tmp_path) == "./run"


@pytest.mark.parametrize("target", [None, "s3://models/base", "http://host/page", "gone"])
def test_what_is_not_beside_the_page_gets_no_link(tmp_path, target):
    named = tmp_path / target if target == "gone" else target
    assert relative_link(named, tmp_path) is None


def test_a_name_longer_than_any_file_s_gets_no_link(tmp_path):
    assert relative_link(tmp_path / ("x" * 5000), tmp_path) is None


def test_a_name_that_looks_like_a_scheme_or_a_query_is_escaped(tmp_path):
    for name in ("a:b", "50% off?", "a#b", 'say "hi" & <b>'):
        (tmp_path / name).touch()
        link = relative_link(tmp_path / name, tmp_path)
        assert link.startswith("./")
        assert not {'"', "#", "?", "<", " "} & {*link}


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40))
def test_a_link_leads_back_to_its_file(tmp_path_factory, name):
    assume(name not in (".", "..") and "://" not in name)
    folder = tmp_path_factory.mktemp("page")
    (folder / name).touch()
    link = relative_link(folder / name, folder)
    assert (folder / unquote(link)).resolve() == (folder / name).resolve()
