"""The image: what its first stage copies is all that `make install` and `iak` need."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iak.pipeline.deploy.pods import USER

ROOT = Path(__file__).parents[3]
CONTAINER = ROOT / "infra" / "container"
TEXT = (CONTAINER / "Containerfile").read_text()


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Return a folder with what the build stage copies from the checkout."""
    target = tmp_path_factory.mktemp("image")
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE):
        *sources, to = line.split()
        for source in sources:
            place = target / to / Path(source).name if to.endswith("/") else target / to
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, symlinks=True)
            else:
                shutil.copy2(ROOT / source, place)
    return target


def test_iak_runs_from_what_is_copied(copied):
    environment = {"PYTHONPATH": str(copied / "infra/package"), "PATH": "/usr/bin:/bin"}
    start = "import sys, iak.jobs.cli as cli; sys.exit(cli.run(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "infra", "render", "--help"]
    done = subprocess.run(
        command, cwd=copied, env=environment, capture_output=True, text=True, check=True
    )
    assert "nightly.toml" in done.stdout


def test_make_finds_what_it_needs_and_leaves_out_the_tools(copied):
    command = ["make", "--dry-run", "install", "EXTRAS=", "ACCELERATOR=cuda"]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=True)
    assert "--editable '.'" in done.stdout


def test_everything_that_is_copied_may_enter_the_image():
    allowed = (CONTAINER / "Containerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE):
        assert all(f"!{source}" in allowed for source in line.split()[:-1])


def test_a_login_shell_finds_the_same_programs():
    (path,) = re.findall(r"^ENV PATH=(\S+)", TEXT, re.MULTILINE)
    (line,) = re.findall(r"echo '(\S+)' > /etc/profile\.d/", TEXT)
    assert line == f"PATH={path}"
    # Debian's /etc/profile exports PATH before it reads profile.d.
    script = f"export PATH=/usr/bin:/bin; {line}; env"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert f"{path.partition(':')[0]}:/usr/bin:/bin" in done.stdout


def test_the_image_runs_as_the_user_of_the_pods():
    assert f"USER {USER}:{USER}" in TEXT
    assert f"--uid {USER}" in TEXT
