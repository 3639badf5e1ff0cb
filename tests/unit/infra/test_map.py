"""The map in pipeline/README.md names every file of the package, and no other file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "pipeline" / "README.md"
ROOMS = ("schemas", "pipeline", "jobs")
_FOLDER = re.compile(r"^( *)([a-z_]+(?:/[a-z_]+)*)/(?= |$)")
_FILE = re.compile(r"(?<![\w/.])(?:[a-z_]+/)?[a-z_0-9]*(?:\{[a-z_,]+\})?[a-z_0-9]+\.py\b")


def mapped(page: str) -> set[str]:
    """Return the paths of all Python files that the map of a page names.

    A folder at the start of a line holds the files of this line and of the lines that follow, until
    the next folder of the same depth. `{a,b}_c.py` names two files.
    """
    block = page.split("## The map")[1].split("```")[1]
    names: set[str] = set()
    top = below = ""
    for line in block.splitlines():
        files = line
        if folder := _FOLDER.match(line):
            depth, name = len(folder[1]), folder[2]
            top, below = (name, "") if depth == 0 else (top, name)
            files = line[folder.end() :]
        elif re.match(r"^ {2}\S", line):
            below = ""
        if top in ROOMS:
            names |= {
                str(Path(top, below, file)) for word in _FILE.findall(files) for file in _each(word)
            }
    return names


def _each(word: str) -> list[str]:
    """Return the names that a word with braces stands for."""
    if not (braces := re.search(r"\{([a-z_,]+)\}", word)):
        return [word]
    return [word.replace(braces[0], one) for one in braces[1].split(",")]


def sources() -> set[str]:
    """Return the paths of all Python files of the package, without those that mark folders."""
    return {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }


def test_the_map_names_every_file_of_the_package():
    assert sorted(sources() - mapped(PAGE.read_text())) == []


def test_the_map_names_no_file_that_does_not_exist():
    assert sorted(mapped(PAGE.read_text()) - sources()) == []


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("  data/   a.py b.py (of a)", {"pipeline/data/a.py", "pipeline/data/b.py"}),
        ("  data/   {a,b}_c.py", {"pipeline/data/a_c.py", "pipeline/data/b_c.py"}),
        ("  data/   x\n       more.py", {"pipeline/data/more.py"}),
        ("  bench/scaling/   a.py", {"pipeline/bench/scaling/a.py"}),
        ("  data/   a.py\n  errors.py   every error", {"pipeline/data/a.py", "pipeline/errors.py"}),
    ],
)
def test_a_folder_holds_the_files_that_follow_it(line, files):
    assert mapped(f"## The map\n```\npipeline/   THE LIBRARY\n{line}\n```\n") == files
