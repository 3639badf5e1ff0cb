"""Heavy tools that only the long tests use, each in a folder of its own."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from filelock import FileLock

TOOLS = Path(sys.prefix) / "tools"
"""Inside the project's own environment, so that `make clean` removes it."""


def tool_python(name: str, *requirements: str, constraints: str | None = None) -> Path:
    """Return the Python of an environment with these packages; make it at the first call.

    Skips the test where the packages cannot be had.

    Args:
        name: folder of the environment.
        requirements: what pip installs, pinned.
        constraints: file or URL of further pins.
    """
    folder = TOOLS / name
    ready = folder / ".ready"
    wanted = "\n".join(requirements)
    TOOLS.mkdir(exist_ok=True)
    with FileLock(TOOLS / f"{name}.lock"):
        if not (ready.is_file() and ready.read_text() == wanted):
            venv.create(folder, with_pip=True, clear=True)
            pip = [
                str(folder / "bin/python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-compile",
                *requirements,
            ]
            pip += ["--constraint", constraints] if constraints else []
            installed = subprocess.run(pip, capture_output=True, text=True, check=False)
            if installed.returncode:
                last = installed.stderr.strip().splitlines()[-1:] or ["no message"]
                pytest.skip(f"{wanted} cannot be installed here: {last[0]}")
            ready.write_text(wanted)
    return folder / "bin/python"


def debian_program(package: str, program: str) -> Path:
    """Return a program of a Debian package, from this machine or unpacked beside the tools.

    Skips the test where it cannot be had.

    Args:
        package: name of the package.
        program: path of the program inside the package.
    """
    if installed := shutil.which(Path(program).name):
        return Path(installed)
    folder = TOOLS / package
    TOOLS.mkdir(exist_ok=True)
    with FileLock(TOOLS / f"{package}.lock"):
        if not (folder / program).is_file():
            _unpack(package, folder)
    return folder / program


def _unpack(package: str, folder: Path) -> None:
    if not shutil.which("apt-get"):
        pytest.skip(f"{package} is not here, nor apt-get, which would fetch it")
    folder.mkdir(exist_ok=True)
    for words in (["apt-get", "download", package], ["dpkg", "-x", "*.deb", "."]):
        files = [str(path) for path in folder.glob("*.deb")]
        command = [file for word in words for file in (files if word == "*.deb" else [word])]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{package} cannot be fetched here: {done.stderr.strip()[-200:]}")
