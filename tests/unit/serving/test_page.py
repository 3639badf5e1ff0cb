"""Every command on the page of predictions is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from iak.jobs.cli import read_spec
from iak.jobs.verbs import split_verb

PAGE = (Path(__file__).parents[3] / "pipeline" / "serving" / "README.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line for line in LINES if line.startswith("iak ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_is_read(command):
    words = shlex.split(command.replace("shop.toml", "frappe").partition(" <")[0])
    verb, rest = split_verb(words[1:])
    assert words[0] == "iak"
    assert read_spec(verb, rest) is not None
