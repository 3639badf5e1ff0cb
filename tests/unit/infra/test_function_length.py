"""Every function is a short paragraph: at most 60 lines, in sources, benchmarks and tests."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("pipeline", "jobs", "schemas", "infra/benchmarks", "tests")
LONGEST = 60


def test_no_function_is_longer_than_a_page():
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST
    ]
    assert too_long == []
