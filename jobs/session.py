"""Make a folder for Ray's session that no other user of the machine may enter.

Ray stores logs, sockets and spilled objects below `/tmp/ray`. It gives every folder that it makes
the mode 0777, whatever the umask (2.60, `try_to_create_directory`). So a local Ray gets a folder
inside one of mode 0700, where the inner mode does not matter. A cluster that the environment names
has the folder with which it was started: `ray start --temp-dir=FOLDER`, below a private one.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path on Linux."""
_BELOW = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.123")
"""Bytes that Ray's sockets take below the private folder, at most."""


def private_folder() -> Path:
    """Return a folder of this user alone, made where it is missing.

    It lies where Ray's own would: below RAY_TMPDIR, TMPDIR or /tmp, the first that leaves room for
    the path of a socket.
    """
    for parent in (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR")):
        if parent and Path(parent).is_dir() and _has_room(Path(parent)):
            return _own(Path(parent))
    return _own(Path("/tmp"))


def _name() -> str:
    return f"iak-{os.getuid()}"


def _has_room(parent: Path) -> bool:
    return len(os.fsencode(parent.absolute() / _name())) + _BELOW <= MAX_SOCKET_PATH


def _own(parent: Path) -> Path:
    """Return the user's folder; a new one of a random name where somebody else owns that name."""
    folder = parent.absolute() / _name()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="iak-", dir=parent))
    folder.chmod(0o700)
    return folder
