"""The page of findings lists every script, with the version that the script installs."""

import re
from pathlib import Path

FINDINGS = Path(__file__).parents[3] / "findings"
LINE = re.compile(r"^\| `(.*?\.sh)` .*\| (\w+) \| ([\d.]+)", re.MULTILINE)


def test_every_script_has_a_line_with_its_library_and_version():
    lines = LINE.findall((FINDINGS / "README.md").read_text())
    scripts = {path.name: path.read_text() for path in FINDINGS.glob("*.sh")}
    assert {name for name, _, _ in lines} == set(scripts)
    missing = [n for n, library, seen in lines if f"{library}=={seen}" not in scripts[n]]
    assert missing == []
