"""Try a corpus of bad inputs, and judge each outcome: refused by name, wrong, or crashed.

There are four kinds: settings of every verb and of this project's benchmarks, catalogues, files
and paths. Most follow from the schemas, which give each number the values that it cannot have. So a
new setting is tried from its first day. Each is given to the program as a user would give it, in
this process. None of them starts Ray.
Settings and paths are refused before the verb's job begins. Inputs that must reach a job name a log
that does not exist.
"""

import contextlib
import io
import random
import traceback
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from iak.jobs import cli
from infra.benchmarks import __main__ as benchmarks
from infra.benchmarks.bad_inputs.catalogs import bad_catalogs
from infra.benchmarks.bad_inputs.files import bad_files
from infra.benchmarks.bad_inputs.hand_written import hand_written
from infra.benchmarks.bad_inputs.items import BadInput, Outcome, Verdict
from infra.benchmarks.bad_inputs.settings import bad_paths, bad_settings

REFUSED_CODES = (1, 2, 3)
_ACCEPTED = 99
_BORDERS = str.maketrans("", "", "│┃")
"""Borders between a table's columns, which may cut a word in two."""


def all_bad_inputs() -> list[BadInput]:
    """Return the whole corpus, each item with a name of its own."""
    return [*bad_settings(), *hand_written(), *bad_paths(), *bad_catalogs(), *bad_files()]


def run_bad_inputs(folder: Path, *, limit: int | None, seed: int) -> list[Outcome]:
    """Give bad inputs to `iak`, one after the other, and judge the outcomes.

    Args:
        folder: an empty folder for the inputs' files.
        limit: number of items to try, drawn so that each kind has its share; all when None.
        seed: seed of the draw.
    """
    return [
        try_one(item, folder / f"{number:05d}") for number, item in enumerate(_drawn(limit, seed))
    ]


def _drawn(limit: int | None, seed: int) -> list[BadInput]:
    """Return `limit` items, an equal number of each kind where there are enough."""
    items = all_bad_inputs()
    if limit is None or limit >= len(items):
        return items
    draw = random.Random(seed)
    by_kind: dict[str, list[BadInput]] = {}
    for item in items:
        by_kind.setdefault(item.kind, []).append(item)
    for kept in by_kind.values():
        draw.shuffle(kept)
    chosen: list[BadInput] = []
    while len(chosen) < limit:
        for kept in by_kind.values():
            if kept and len(chosen) < limit:
                chosen.append(kept.pop())
    return chosen


def try_one(item: BadInput, folder: Path) -> Outcome:
    """Give one bad input to `iak`.

    Args:
        item: item to try.
        folder: a folder that does not exist yet, made for the files that it needs.
    """
    folder.mkdir(parents=True)
    item.make(folder)
    words = [word.replace("{folder}", str(folder)) for word in item.words]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = _run(item, words)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        crash = "".join(traceback.format_exception_only(error)).strip()
        return Outcome(kind=item.kind, name=item.name, outcome="crashed", message=crash)
    message = output.getvalue().strip()
    outcome = _verdict(
        code, message, tuple(n.replace("{folder}", str(folder)) for n in item.must_name)
    )
    return Outcome(kind=item.kind, name=item.name, outcome=outcome, message=message)


def _run(item: BadInput, words: list[str]) -> int:
    """Give the words to the item's program, and return its exit code."""
    if item.program == "benchmarks":
        return benchmarks.main(words, start=lambda _: _ACCEPTED)
    return cli.run(words, start=None if item.reaches_job else _accept)


def _verdict(code: int, message: str, must_name: tuple[str, ...]) -> Verdict:
    """Return whether a command refused its input by name."""
    if "Traceback (most recent call last)" in message:
        return "crashed"
    is_refused = code in REFUSED_CODES and message.count("error: ") <= 1
    plain = _plain(message)
    return (
        "refused by name" if is_refused and all(_plain(t) in plain for t in must_name) else "wrong"
    )


def _plain(text: str) -> str:
    """Return a text without line ends, borders and dashes, which depend on the terminal."""
    return "".join(text.translate(_BORDERS).split()).replace("-", "_").lower()


def _accept(_verb: str, _spec: BaseModel) -> int:
    """Stand for a job that begins: the input was accepted."""
    return _ACCEPTED


def table_of(outcomes: list[Outcome]) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield a line for each kind: its name, items, refused by name, wrong, crashed."""
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        outcomes_of_kind = [o.outcome for o in outcomes if o.kind == kind]
        counts = [outcomes_of_kind.count(v) for v in ("refused by name", "wrong", "crashed")]
        yield kind, len(outcomes_of_kind), counts[0], counts[1], counts[2]
