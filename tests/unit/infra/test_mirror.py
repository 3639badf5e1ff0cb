"""Every module of the package is imported by a unit test."""

import ast
from collections.abc import Iterator
from pathlib import Path

from iak.jobs.verbs import VERBS

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("schemas", "pipeline", "jobs")
MIN_LINES = 3
"""An `__init__.py` with less than this is a docstring and no more."""


def modules() -> dict[str, Path]:
    """Return the modules of the package with their files."""
    return {
        _name(path): path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if len(path.read_text().splitlines()) >= MIN_LINES
    }


def _name(path: Path) -> str:
    """Return a module's name from its file."""
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
    return ".".join(("iak", *parts))


def imported(path: Path) -> Iterator[str]:
    """Yield what a file imports, and each name of it, which may be a module as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def by_the_command_line() -> set[str]:
    """Return the modules of verbs that a test of the same name runs as a person would."""
    names = {verb.split()[0] for verb in VERBS}
    tests = ROOT / "tests" / "unit" / "jobs"
    return {f"iak.jobs.{name}" for name in names if (tests / f"test_{name}.py").is_file()}


def test_every_module_is_imported_by_a_unit_test():
    tests = (ROOT / "tests" / "unit").rglob("*.py")
    seen = {name for path in tests for name in imported(path)}
    assert sorted(modules().keys() - seen - by_the_command_line()) == []


def test_modules_and_imports_are_found():
    """The rule above would hold as well if it looked at nothing."""
    assert len(modules()) > 250
    assert {"iak.pipeline.data.reader", "iak.jobs.cli", "iak.schemas.log"} <= modules().keys()
    assert {"ast", "iak.jobs.verbs", "iak.jobs.verbs.VERBS"} <= {*imported(Path(__file__))}
