"""Write relative links, which work wherever a folder of nights is copied to."""

import os
from pathlib import Path
from urllib.parse import quote


def relative_link(target: str | Path | None, page_folder: Path) -> str | None:
    """Return a link from a page to a file or folder beside it.

    A target in an object store, or one that no longer exists, has no link. The page then shows its
    name as text.

    Args:
        target: path or URI; None for nothing.
        page_folder: where the page lies.
    """
    if target is None or "://" in str(target):
        return None
    path = Path(target)
    try:
        if not path.exists():
            return None
        relative = os.path.relpath(path.resolve(), page_folder.resolve())
    except (OSError, ValueError):
        # A name too long for the file system, or a folder that this user may not look into.
        return None
    # A relative link may not start with what a browser takes for a scheme, as in `a:b`.
    return quote(f"./{Path(relative).as_posix()}")
