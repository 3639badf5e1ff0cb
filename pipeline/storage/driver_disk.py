"""Carry a run's files between the driver's machine and a worker's, which share no disk.

    driver's scratch/runs/NAME-HASH/   the run folder, a copy of the one on the object store
    worker's scratch/runs/NAME-HASH/   what this machine's workers read and write of it

Scratch lies elsewhere on each machine, but below it a path means the same everywhere. A path that
is not below scratch is on a disk that all machines see, and is left alone.

`DriverDisk` runs on the driver's machine, and `RemoteFiles` in a worker. Neither knows what carries
the calls between them (jobs/ray_launcher.py: an actor of Ray).
"""

import io
import os
import pickle
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from iak.pipeline.files import (
    PART,
    is_part,
    putting_file,
    remove_path,
    replace_folder,
    sync_file,
    sync_folder,
)
from iak.pipeline.storage.stored_folder import files_below
from iak.pipeline.storage.working_copy import scratch
from iak.schemas.traffic import Carried

CHUNK_BYTES = 8 * 2**20
"""Most bytes of a file in one call."""
NOT_CARRIED = ("ray", "activations", "mapped", "spill")
"""Folders of a run folder or beside a base that each machine makes for itself."""
FileState = tuple[int, int]
"""Size and time of change, which together tell a file's content from what it was."""
Call = Callable[..., Any]
"""Calls a method of the driver's disk by its name, with further arguments."""


class DriverDisk:
    """The scratch of the driver's machine. Workers of other machines read and write it by calls."""

    def __init__(self, root: Path) -> None:
        """Serve the files below a folder.

        Args:
            root: scratch of the driver.
        """
        self.root = root
        self._received, self._sent = Carried(), Carried()

    def states(self, inside: str) -> dict[str, FileState] | None:
        """Return the state of each file below a path; None where there is neither folder nor file.

        A folder's files have their paths below it as keys, and a single file has "".
        """
        path = self.root / inside
        if path.is_file():
            return {"": _state_of(path)}
        if not path.is_dir():
            return None
        return {name: _state_of(path / name) for name in files_below(path, is_carried)}

    def read(self, inside: str, start: int) -> bytes:
        """Return the next bytes of a file; none at its end."""
        with (self.root / inside).open("rb") as file:
            file.seek(start)
            content = file.read(CHUNK_BYTES)
        self._sent += Carried(files=int(start == 0), bytes=len(content))
        return content

    def append(self, inside: str, content: bytes) -> None:
        """Append bytes to a file, which is made where it is missing."""
        path = self.root / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)
        self._received += Carried(bytes=len(content))

    def finish(self, part: str, inside: str) -> None:
        """Give a received file its name, at once."""
        built, path = self.root / part, self.root / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_file(built)
        built.replace(path)
        sync_folder(path.parent)
        self._received += Carried(files=1)

    def call(self, function: Callable[..., object], arguments: Sequence[tuple[bool, Any]]) -> None:
        """Call a function on this machine.

        Args:
            function: the function.
            arguments: each with whether it is a path below this disk's root.
        """
        function(*(self.root / value if is_path else value for is_path, value in arguments))

    def carried(self) -> tuple[Carried, Carried]:
        """Return the files that came from other machines, and those that went there."""
        return self._received, self._sent


class RemoteFiles:
    """The files of a run on a machine that is not the driver's."""

    def __init__(self, call: Call, *, is_first: bool) -> None:
        """Reach the driver's disk.

        Args:
            call: calls a method of the driver's disk.
            is_first: whether this worker acts for all workers of its machine.
        """
        self._call, self.is_first = call, is_first
        self._root = scratch()

    def fetch(self, path: Path) -> None:
        """Give this machine a file or a folder as the driver's machine has it now.

        A file that is here with the driver's size and time is not read again.
        """
        inside = self._inside(path)
        if inside is None:
            return
        states = self._call("states", inside)
        if states is None:
            remove_path(path)
            return
        if "" not in states:
            path.mkdir(parents=True, exist_ok=True)
            for name in [*files_below(path, is_carried)]:
                if name not in states:
                    (path / name).unlink()
        for name, state in states.items():
            self._fetch_file(path / name if name else path, _joined(inside, name), state)

    def _fetch_file(self, path: Path, inside: str, state: FileState) -> None:
        if path.is_file() and _state_of(path) == state:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with putting_file(path, is_durable=False) as part:
            with part.open("wb") as file:
                while content := self._call("read", inside, file.tell()):
                    file.write(content)
            os.utime(part, ns=(state[1], state[1]))

    def send(self, path: Path) -> None:
        """Replace a file or a folder of the driver's machine by this machine's, at once."""
        inside = self._inside(path)
        if inside is None:
            return
        part = _part_of(inside)
        if path.is_file():
            self._upload(path, inside)
            return
        for name in files_below(path, is_carried):
            self._upload(path / name, f"{part}/{name}")
        self.call_on_driver(replace_folder, self._root / part, path)

    def merge(self, folder: Path) -> None:
        """Move this machine's files of a folder to the driver's folder of that name."""
        inside = self._inside(folder)
        if inside is None or not self.is_first:
            return
        for name in files_below(folder, is_carried):
            self._upload(folder / name, f"{inside}/{name}")
        shutil.rmtree(folder, ignore_errors=True)

    def call_on_driver(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the driver's machine."""
        carried = [
            (True, inside)
            if isinstance(value, Path) and (inside := self._inside(value)) is not None
            else (False, value)
            for value in arguments
        ]
        self._call("call", function, carried)

    def _upload(self, path: Path, inside: str) -> None:
        part = _part_of(inside)
        with path.open("rb") as file:
            content = file.read(CHUNK_BYTES)
            self._call("append", part, content)  # also where the file is empty
            while content := file.read(CHUNK_BYTES):
                self._call("append", part, content)
        self._call("finish", part, inside)

    def _inside(self, path: Path) -> str | None:
        """Return a path relative to scratch; None for one elsewhere, which all machines see."""
        absolute = path.absolute()
        if not absolute.is_relative_to(self._root):
            return None
        return absolute.relative_to(self._root).as_posix()


def is_carried(inside: str) -> bool:
    """Return whether a file of a folder goes to other machines, by its path below the folder."""
    parts = PurePath(inside).parts
    return parts[0] not in NOT_CARRIED and not any(is_part(Path(part)) for part in parts)


def _state_of(path: Path) -> FileState:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _part_of(inside: str) -> str:
    """Return a hidden name beside a path, which no other upload takes."""
    path = PurePath(inside)
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{PART}").as_posix()


def _joined(inside: str, name: str) -> str:
    return f"{inside}/{name}" if name else inside


@contextmanager
def marked_scratch() -> Iterator[str]:
    """Yield the name of a file in this machine's scratch. A worker that sees it shares the scratch.

    The file is removed when the block ends.
    """
    mark = scratch() / f".{secrets.token_hex(8)}.driver"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield mark.name
    finally:
        mark.unlink(missing_ok=True)


def sees_scratch(mark: str) -> bool:
    """Return whether this machine's scratch is the one that has a mark."""
    return (scratch() / mark).exists()


class _Packer(pickle.Pickler):
    """Pickles a path below scratch as its part below scratch."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._root = scratch()

    def reducer_override(self, value: object) -> Any:  # noqa: ANN401 - as the class says
        """Return how a path below scratch is rebuilt; leave everything else to pickle."""
        if isinstance(value, Path) and value.is_relative_to(self._root):
            return _below_scratch, (value.relative_to(self._root).as_posix(),)
        return NotImplemented


def _below_scratch(inside: str) -> Path:
    return scratch() / inside


def packed(work: object) -> bytes:
    """Pickle an object. Its paths below scratch will mean the scratch of the machine that loads it.

    `pickle.loads` makes the object again.
    """
    file = io.BytesIO()
    _Packer(file).dump(work)
    return file.getvalue()
