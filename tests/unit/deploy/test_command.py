"""The scheduled command: ordinary exit codes of a night become 0, all others stay."""

import subprocess
from pathlib import PurePath

import pytest

from iak.pipeline.deploy.command import scheduled_command
from tests.unit.deploy.nights import nights


def _run(tmp_path, code, *, ok_codes=(0, 4, 6)):
    program = tmp_path / "iak"
    program.write_text(f'#!/bin/sh\necho "$PWD" "$@"\nexit {code}\n')
    program.chmod(0o755)
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    spec = nights(deploy={"ok_codes": ok_codes})
    command = scheduled_command(spec, PurePath(folder / "nightly.toml"))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    return subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (4, 0), (6, 0), (5, 5), (1, 1), (2, 2)])
def test_codes(tmp_path, code, expected):
    assert _run(tmp_path, code).returncode == expected


def test_codes_that_a_platform_wants_to_hear_of(tmp_path):
    assert _run(tmp_path, 4, ok_codes=(0,)).returncode == 4


def test_the_night_runs_beside_its_file(tmp_path):
    assert _run(tmp_path, 0).stdout == f"{tmp_path}/it's a folder nightly run nightly.toml\n"
