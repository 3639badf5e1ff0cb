"""Files of object stores on this machine's disk, by the SHA-256 of their bytes.

A night reads mostly the bundles of the night before. Every use hashes the file: one that was
damaged is downloaded again. A file that nobody used for a month is removed.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from iak.pipeline.files import putting_file

KEPT_S = 30 * 86_400.0
"""Seconds after its last use at which a file is removed."""


@dataclass(frozen=True, slots=True)
class DownloadCache:
    """A folder of downloaded files. Several processes may use it at once."""

    folder: Path

    def file(self, sha256: str, download: Callable[[], bytes]) -> Path:
        """Return the local file of these bytes, downloaded where it is missing or damaged.

        Args:
            sha256: of the bytes.
            download: returns them, verified.
        """
        path = self.folder / sha256[:2] / sha256
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                path.touch()  # its last use
                return path
        except OSError:
            pass  # not there, or removed meanwhile
        path.parent.mkdir(parents=True, exist_ok=True)
        # The cache need not survive a crash of the machine: what is torn is downloaded again.
        with putting_file(path, is_durable=False) as part:
            part.write_bytes(download())
        return path

    def remove_unused(self) -> int:
        """Remove files that nobody used for `KEPT_S`; return how many."""
        oldest, removed = time.time() - KEPT_S, 0
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # another process removed it
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
        return removed


def default_cache() -> DownloadCache:
    """Return this user's cache: `iak/bundles` below XDG_CACHE_HOME or ~/.cache."""
    return DownloadCache(platformdirs.user_cache_path("iak") / "bundles")
