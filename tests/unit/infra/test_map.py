"""The map in pipeline/README.md names every file of the package, and no other file.

So does the table "Where is ...?": the file and the definition that it names exist.
"""

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


def answers(page: str) -> list[tuple[str, list[str], list[str]]]:
    """Return, for each question of "Where is ...?", the files and the definitions of its answer."""
    table = page.split("## Where is ...?")[1].split("\n## ")[0]
    lines = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    named = [(question.strip(), re.findall(r"`([\w./]+)`", answer)) for question, answer in lines]
    return [
        (
            question,
            [word for word in words if "/" in word],
            # `matures_after` is a field and `all_reduce` a library's; both stand in a file too.
            [word.rpartition(".")[2] for word in words if "/" not in word and word != "night.json"],
        )
        for question, words in named
    ]


@pytest.mark.parametrize(("question", "files", "names"), answers(PAGE.read_text()))
def test_an_answer_names_files_that_have_what_it_names(question, files, names):
    assert files, question
    texts = [(ROOT / file).read_text() for file in files]
    places = texts if "cost" not in question else [*texts, (ROOT / "schemas/night.py").read_text()]
    missing = [name for name in names if not any(re.search(rf"\b{name}\b", t) for t in places)]
    assert missing == []


def test_every_question_has_an_answer():
    questions = [question for question, _, _ in answers(PAGE.read_text())]
    for words in ("frozen", "gradients", "ripe", "publish", "named", "cost"):
        assert any(words in question for question in questions), words


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
