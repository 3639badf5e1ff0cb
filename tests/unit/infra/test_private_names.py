"""Benchmarks and tests use what a module offers: no name that begins with an underscore."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OWN = ("iak", "infra", "tests")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the local and the whole name of everything of this project that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OWN:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def private_names(source: str) -> list[str]:
    """Return the private names of this project that a file uses."""
    tree = ast.parse(source)
    names = dict(imported(tree))
    wrong = [whole for whole in names.values() if any(map(is_private, whole.split(".")))]
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return wrong + [
        f"{names[node.value.id]}.{node.attr}"
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id in names and is_private(node.attr)
    ]


@pytest.mark.parametrize("folder", ["infra", "tests"])
def test_no_file_uses_a_private_name(folder):
    files = [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "infra" / "package")
    ]
    assert len(files) > 20
    wrong = {str(path): names for path in files if (names := private_names(path.read_text()))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from iak.pipeline.files import _swap", ["iak.pipeline.files._swap"]),
        ("from iak.pipeline import files as f\nf._swap()", ["iak.pipeline.files._swap"]),
        ("from iak.jobs.spec import read\nread()", []),
        ("from iak.jobs import spec\nspec._types()", ["iak.jobs.spec._types"]),
        ("from iak.jobs._tables import number", ["iak.jobs._tables.number"]),
        ("from iak.jobs.__main__ import main\nmain._x", ["iak.jobs.__main__.main._x"]),
        ("import os\nos._exit(0)", []),
    ],
)  # fmt: skip
def test_private_names_are_seen_in_imports_and_behind_modules(source, wrong):
    assert private_names(source) == wrong
