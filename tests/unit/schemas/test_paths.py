"""A path of a setting is a text that a file system takes, and says what it is for."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from iak.schemas import paths
from iak.schemas.paths import PICTURES, Role

ROLES = {
    "FileToRead": Role(is_folder=False, is_written=False),
    "FileOrFolderToRead": Role(is_folder=None, is_written=False),
    "FolderToRead": Role(is_folder=True, is_written=False),
    "FileToWrite": Role(is_folder=False, is_written=True),
    "FolderToWrite": Role(is_folder=True, is_written=True),
    "Picture": Role(is_folder=False, is_written=True),
}


@pytest.mark.parametrize("kind", ROLES)
def test_a_path_says_what_it_is_for(kind):
    roles = [m for m in get_args(getattr(paths, kind)) if isinstance(m, Role)]
    assert roles == [ROLES[kind]]


def test_a_path_that_a_job_looks_for_by_itself_has_no_role():
    assert not [m for m in get_args(paths.NamedPath) if isinstance(m, Role)]


@pytest.mark.parametrize("kind", [*ROLES, "NamedPath"])
@pytest.mark.parametrize("text", ["", "  ", "a\x00b.png", "a\nb.png", "a\udcff.png"])
def test_a_text_that_no_file_system_takes_is_no_path(kind, text):
    with pytest.raises(ValidationError):
        TypeAdapter(getattr(paths, kind)).validate_python(text)


@pytest.mark.parametrize("kind", [*ROLES, "NamedPath"])
@settings(max_examples=20)
@given(text=st.text("ab./ é店", max_size=9))
def test_any_other_text_is_the_path_that_it_spells(kind, text):
    text += "a.png"
    assert TypeAdapter(getattr(paths, kind)).validate_python(text) == Path(text)
    assert TypeAdapter(getattr(paths, kind)).validate_python(Path(text)) == Path(text)


@pytest.mark.parametrize("ending", [*PICTURES, *map(str.upper, PICTURES)])
def test_a_picture_may_be_of_any_kind_that_is_drawn(ending):
    path = TypeAdapter(paths.Picture).validate_python(f"a{ending}")
    assert path.suffix == ending


@pytest.mark.parametrize("name", ["a", "a.jpg", "png", "a.png/b"])
def test_a_picture_of_another_kind_is_refused_with_those_there_are(name):
    with pytest.raises(ValidationError, match=r"ends in \.png, \.svg, \.pdf"):
        TypeAdapter(paths.Picture).validate_python(name)
