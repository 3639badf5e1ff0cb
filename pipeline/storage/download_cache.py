"""Keep files of object stores on this machine's disk, by the SHA-256 of their bytes.

Most bundles that a night reads are those of the night before. Each use hashes the file, and a
damaged one is downloaded again. A file that nobody used for a month is removed.
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
            sha256: SHA-256 of the bytes.
            download: returns the bytes, verified.
        """
        path = self.folder / sha256[:2] / sha256
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                path.touch()  # `remove_unused` reads the last use from the time of change
                return path
        except OSError:
            pass  # never downloaded, or removed by another process
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced to the disk: a file that a crash of the machine damages is downloaded again.
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
