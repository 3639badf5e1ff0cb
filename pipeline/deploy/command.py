"""Write the command that a scheduler starts for one night."""

import re
import shlex
from pathlib import PurePath

from iak.schemas.nightly import NightlySpec


def night_command(file: PurePath, iak: str = "iak") -> list[str]:
    """Return the command of the newest complete night, as words.

    Args:
        file: nightly.toml where the command runs.
        iak: the program.
    """
    return [iak, "nightly", "run", str(file)]


def scheduled_command(spec: NightlySpec, file: PurePath) -> str:
    """Return the command of a night for a shell, whose ordinary exit codes become 0.

    Most schedulers take every code but 0 for a failure and start the night again. The codes of
    `deploy.ok_codes` are ordinary: 4 means that some kernels are held, 6 that nothing was new.

    Args:
        spec: the nights.
        file: nightly.toml where the command runs. The command runs in its folder, so that relative
            paths in it mean the same as beside it.
    """
    command = shlex.join(night_command(PurePath(file.name)))
    codes = "|".join(str(code) for code in spec.deploy.ok_codes if code)
    folder = shlex.quote(str(file.parent))
    if not codes:
        return f"cd {folder} && {command}"
    return f"cd {folder} && {command} || case $? in {codes}) ;; *) exit $? ;; esac"


def dns_name(spec: NightlySpec) -> str:
    """Return the service's name as Kubernetes takes it: lower case, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", f"iak-{spec.name}".lower()).strip("-")
