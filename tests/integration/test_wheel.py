"""The wheel holds the package `iak` alone, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("pipeline", "jobs", "schemas", "infra/package")
NEEDED = (
    "iak/__init__.py",
    "iak/py.typed",
    "iak/jobs/cli.py",
    "iak/jobs/configs/bench/smoke/sharding.toml",
    "iak/jobs/configs/clusters/8xH100.toml",
    "iak/jobs/configs/demo/synth.toml",
    "iak/pipeline/errors.py",
    "iak/pipeline/report/templates/night.html.j2",
    "iak/pipeline/report/templates/page.css",
    "iak/pipeline/report/templates/page.js",
    "iak/schemas/catalog/planted.toml",
)


def run(*words, cwd, **environment):
    """Run a command, and return what it printed."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*words, cwd):
    return run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words, cwd=cwd
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy of the sources, since a build writes beside them."""
    project = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        shutil.copytree(
            ROOT / name, project / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", project)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, project, cwd=project)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def iak(wheel, tmp_path_factory):
    """Return a function that runs the installed `iak`, far from the checkout.

    `-S` leaves out `.pth` files, and with them an editable install of the checkout. The path is the
    folder of the wheel, and third-party packages.
    """
    place = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", place, wheel, cwd=place)
    path = os.pathsep.join([str(place), *third_party()])
    work = tmp_path_factory.mktemp("work")

    def command(*words):
        return run(sys.executable, "-S", *words, cwd=work, PYTHONPATH=path)

    command.script, command.work, command.place = place / "bin" / "iak", work, place
    return command


def third_party():
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def test_the_wheel_holds_iak_alone_with_its_catalogues_and_settings(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"iak"}
    assert [name for name in NEEDED if name not in names] == []
    for folder in ("pipeline", "jobs", "schemas"):
        sources = (file for kind in ("*.py", "*.toml") for file in (ROOT / folder).rglob(kind))
        missing = [str(file) for file in sources if f"iak/{file.relative_to(ROOT)}" not in names]
        assert missing == []


def test_the_package_that_runs_is_the_installed_one(iak):
    seen = iak("-c", "import iak.pipeline.errors as e; print(e.__file__)").strip()
    assert Path(seen).is_relative_to(iak.place)


def test_help_lists_the_verbs(iak):
    text = iak(iak.script, "--help")
    assert "pretrain" in text
    assert "Exit codes" in text


def test_a_planted_log_is_written_and_checked_without_a_checkout(iak):
    iak(iak.script, "synth", f"out={iak.work / 'log'}", "rows=20000")
    text = iak(iak.script, "check", "catalog=planted", f"data_root={iak.work / 'log'}")
    assert "20,000 rows" in text
    assert "findings: none" in text
