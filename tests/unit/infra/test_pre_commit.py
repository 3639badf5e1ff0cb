"""The hooks before a commit are the tools of `make lint`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOOL = re.compile(r"\.venv/bin/((?:ruff )?[a-z-]+)")


def test_the_hooks_run_what_make_lint_runs():
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert TOOL.findall(lint) == ["ruff format", "ruff check", "mypy", "lint-imports"]
    assert TOOL.findall(hooks) == TOOL.findall(lint)
