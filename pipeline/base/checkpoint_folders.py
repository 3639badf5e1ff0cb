"""Name, list and complete the folders of a run's checkpoints. Nothing here loads torch."""

import re
import shutil
from pathlib import Path

from iak.pipeline.files import replace_folder

KEEP = 2
"""Checkpoints of a run that stay on disk."""


def folder_of(folder: Path, step: int) -> Path:
    """Return the folder of a complete checkpoint.

    Args:
        folder: folder of the run's checkpoints.
        step: steps that are done.
    """
    return folder / f"step-{step:08d}"


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints, newest first."""
    steps = {
        int(named[1]): path
        for path in folder.glob("step-*")
        if (named := re.fullmatch(r"step-(\d+)", path.name))
    }
    return [steps[step] for step in sorted(steps, reverse=True)]


def put_checkpoint(part: Path, path: Path) -> None:
    """Rename a complete checkpoint to its final name, and remove those that are too old.

    Args:
        part: folder in which it was written.
        path: its final path, beside the run's other checkpoints.
    """
    replace_folder(part, path)
    for old in complete(path.parent)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
