"""Files of rows that a machine's workers map instead of holding: written once, by one of them.

A folder appears under its name when every file in it is whole and on disk. Its pages are read only,
and lie in memory once, however many workers map them.
"""

import fcntl
import mmap
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import Corrupt
from pipeline.files import put_folder, sync_file


def mapped(
    folder: Path, sizes: Mapping[str, int], write: Callable[[Path], None]
) -> dict[str, Tensor]:
    """The files of `folder` as bytes, written first if they are not there.

    A worker that finds another one writing waits for it; one that dies while it writes leaves
    nothing behind that is ever read.

    Args:
        folder: named for its content; on a disk of this machine.
        sizes: bytes by name of file, none of them zero.
        write: fills a new folder with these files.

    Raises:
        Corrupt: a file has another size.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            write(part)
            for name in sizes:
                _flush(part / name)
            put_folder(part, folder)
        return {name: _map(folder / name, size) for name, size in sizes.items()}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes of this machine out; the lock of one that dies is free."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush(path: Path) -> None:
    """Wait until a file is on disk, and let nobody write to it."""
    sync_file(path)
    path.chmod(0o400)


def _map(path: Path, size: int) -> Tensor:
    """A file's bytes, as pages that are shared and read only."""
    found = path.stat().st_size if path.is_file() else 0
    if found != size:
        raise Corrupt(
            f"{path} has {found} bytes; expected {size}. Remove {path.parent}: the next run "
            "writes it again"
        )
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(pages, dtype=torch.uint8)
