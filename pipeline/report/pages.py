"""Write the pages of a folder of nights: one for each night, and the index over all of them."""

from collections.abc import Sequence
from pathlib import Path

from iak.pipeline.files import put_file
from iak.pipeline.report.index_page import index_page
from iak.pipeline.report.night_page import night_page
from iak.pipeline.report.nights import (
    INDEX,
    PAGE,
    NightFolder,
    earlier_nights,
    night_folders,
    read_night,
)


def write_pages(folder: Path) -> Path:
    """Write the page of a night and the index over all nights; return the page's path.

    A page depends on records alone, so that it can be made again at any time. A reader sees the old
    page or the new one, never a part.

    Args:
        folder: folder of the night with its record, beside those of the other nights.

    Raises:
        Corrupt: the record in the folder cannot be read.
    """
    shown = read_night(folder)
    nights = list(night_folders(folder.parent))
    page = folder / PAGE
    put_file(page, night_page(shown, earlier_nights(nights, shown), folder))
    _write_index(nights, folder.parent)
    return page


def write_index(nights: Path) -> Path:
    """Write the index over all nights of a folder, and return its path."""
    return _write_index(list(night_folders(nights)), nights)


def _write_index(folders: Sequence[NightFolder], nights: Path) -> Path:
    path = nights / INDEX
    put_file(path, index_page(folders, nights))
    return path
