"""Every library that the package imports is declared in pyproject.toml."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Modules whose own distribution is a fixed part of a declared one.
PART_OF = {
    "annotated_types": "pydantic",
    "fbgemm_gpu": "fbgemm-gpu",  # fbgemm-gpu-cpu provides it on a CPU
    "markupsafe": "jinja2",
    "pydantic_core": "pydantic",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical_name(requirement: str) -> str:
    """Return a requirement's distribution as PEP 503 writes it: `PyYAML>=6` -> `pyyaml`."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def imported_modules(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_what_is_imported_is_declared():
    extras = PROJECT["optional-dependencies"]
    declared = {
        canonical_name(requirement)
        for requirement in [
            *PROJECT["dependencies"],
            *extras["delta"],
            *extras["iceberg"],
            *extras["serve"],
        ]
    }
    distributions = packages_distributions()
    undeclared: dict[str, str] = {}
    for room in ("pipeline", "jobs", "schemas"):
        for path in (ROOT / room).rglob("*.py"):
            for module in imported_modules(path) - set(sys.stdlib_module_names) - {"iak"}:
                names = (
                    [PART_OF[module]] if module in PART_OF else distributions.get(module, [module])
                )
                providers = {canonical_name(name) for name in names}
                if not providers & declared:
                    undeclared[module] = str(path.relative_to(ROOT))
    assert not undeclared
