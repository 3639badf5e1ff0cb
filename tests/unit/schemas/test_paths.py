"""Paths in settings: texts that no file system takes, and pictures nobody can draw."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from iak.schemas.base import Spec
from iak.schemas.paths import FileToRead, FolderToWrite, Picture, Role


class Paths(Spec):
    """A document with a path of each kind."""

    read: FileToRead = Path("a")
    out: FolderToWrite = Path("b")
    picture: Picture | None = None


def test_each_path_says_what_it_is_for():
    roles = {
        name: next(m for m in field.metadata if isinstance(m, Role))
        for name, field in Paths.model_fields.items()
        if name != "picture"
    }
    assert (roles["read"].is_folder, roles["read"].is_written) == (False, False)
    assert (roles["out"].is_folder, roles["out"].is_written) == (True, True)


@pytest.mark.parametrize("text", ["", " ", "a\x00b"])
def test_a_text_that_is_no_path_is_refused(text):
    with pytest.raises(ValidationError):
        Paths.model_validate({"read": text})


@pytest.mark.parametrize(("name", "is_drawn"), [("a.png", True), ("a.SVG", True), ("a.gif", False)])
def test_a_picture_is_drawn_in_few_formats(name, is_drawn):
    if is_drawn:
        assert Paths.model_validate({"picture": name}).picture == Path(name)
        return
    with pytest.raises(ValidationError, match=r"ends in .png, .svg, .pdf"):
        Paths.model_validate({"picture": name})
