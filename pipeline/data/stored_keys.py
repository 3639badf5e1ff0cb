"""Keep the vocabularies of an encoding in a file, and map them into memory when they are read.

The file is a safetensors file of 64-bit tensors, which is written and mapped without a copy of any
tensor in memory:

    8 bytes    length of the header
    header     JSON: name -> dtype, shape, first byte and byte after the last one; padded to 8 bytes
    data       the tensors, one after the other

All processes of a machine that map a file share its pages.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from iak.pipeline.data.hashing import Keys

Arrays = Mapping[str, npt.NDArray[Any]]
MAX_PICKLED_IDS = 1 << 20
"""Ids of a vocabulary up to which a pickle has its keys, 8 MiB. Of a larger one it has the path of
the file, so that starting workers costs no memory for each id."""
PREFIX = "vocabulary."
"""First letters of the name of a vocabulary's tensor."""
_DTYPES = {"I64": np.dtype("<i8"), "F64": np.dtype("<f8")}
_BLOCK = 1 << 20
"""Numbers that are written at a time."""


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays to a new file, a block at a time.

    Args:
        path: path of the file.
        arrays: name -> array of one dimension, of int64 or float64.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {}
    end = 0
    for name, array in sorted(arrays.items()):
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that each number of a mapped file is aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in sorted(arrays.items()):
            for first in range(0, len(array), _BLOCK):
                file.write(np.ascontiguousarray(array[first : first + _BLOCK]).data)


def map_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Map the arrays of a file, read only.

    Args:
        path: a file that `write_arrays` wrote, or safetensors.

    Raises:
        KeyError: a tensor is of another type.
        OSError: it cannot be read.
        SafetensorError: it is no safetensors file, or not whole.
    """
    with safe_open(path, framework="np"):
        pass  # it compares the header with the size of the file
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    # As a plain array: of np.memmap, every slice would be an object with attributes of its own.
    pages = np.asarray(np.memmap(path, np.uint8, "r"))[8 + size :]
    return {
        name: pages[slice(*entry["data_offsets"])].view(_DTYPES[entry["dtype"]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


class StoredKeys(Mapping[str, Keys]):
    """The vocabularies of a file: name of a table -> sorted keys of its ids."""

    def __init__(
        self,
        path: Path,
        names: tuple[str, ...] | None = None,
        small: Mapping[str, Keys] | None = None,
    ) -> None:
        """Map the file at once, or when a vocabulary is read that is not given here.

        Args:
            path: path of the file. Other processes open it under this path.
            names: tables with a vocabulary; None reads them from the file.
            small: vocabularies that are in memory.
        """
        self.path = path
        self._keys = dict(small or {})
        self._names = self._mapped() if names is None else names

    def _mapped(self) -> tuple[str, ...]:
        """Map the file, and return its tables."""
        for name, array in map_arrays(self.path).items():
            if name.startswith(PREFIX):
                self._keys.setdefault(name.removeprefix(PREFIX), array.view(np.uint64))
        return tuple(self._keys)

    def __getitem__(self, name: str) -> Keys:
        """Return the keys of a table."""
        if name not in self._names:
            raise KeyError(name)
        if name not in self._keys:
            self._mapped()
        return self._keys[name]

    def __contains__(self, name: object) -> bool:
        """Return whether a table has a vocabulary, without a look at the file."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Yield the tables."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of tables."""
        return len(self._names)

    def __reduce__(self) -> tuple[Callable[..., Mapping[str, Keys]], tuple[object, ...]]:
        """Pickle small vocabularies, and the path of the file where others are larger."""
        small = {name: keys for name, keys in self.items() if len(keys) <= MAX_PICKLED_IDS}
        if len(small) == len(self):
            return dict, (small,)
        return StoredKeys, (self.path, self._names, small)
