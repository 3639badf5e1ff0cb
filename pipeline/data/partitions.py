"""Read partition values from folder names, and from the same column inside a file.

The name of a folder is text that a writer escaped in its own way. Where the file has the column
too, the file's value counts, row by row.
"""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.schemas.log import FolderNames

NULL_FOLDERS = frozenset({"__HIVE_DEFAULT_PARTITION__", "__DEFAULT_PARTITION__"})
"""Names that Hive, Spark and Delta, and Paimon, give to the folder of the null value."""
NULL_WORD = "null"
"""The name that Iceberg gives to it; read as a word, unless the column in the file is null."""
_SHARD = re.compile(r"[-_]((part[-_]?)?\d+[-_]of[-_]\d+.*|part[-_]?\d+)$")
"""End of a file's name that numbers it among those of one value."""


def named_value(folder: str, level: str, names: FolderNames) -> str | None:
    """Return the text in a folder's name that stands for a value; None for a folder of no value.

    Args:
        folder: the folder's name.
        level: key of this level of folders.
        names: how the log's folders are named. Where they have the value alone, one may still be
            `key=value`.
    """
    key, is_named, text = folder.partition("=")
    if is_named:
        return text if key == level else None
    return folder if names == "value" else None


def value_of_file(name: str) -> str:
    """Return the value that a file's name stands for: `train` of `train-00000-of-00004.parquet`."""
    return _SHARD.sub("", name.split(".")[0])


def value_of(name: str) -> str | None:
    """Return the value that a folder's `key=name` stands for."""
    return None if name in NULL_FOLDERS else unquote(name)


def folders_of(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the name of each level of folders: the key `year/month/day` spans three of them."""
    return tuple(name for key in keys for name in key.split("/"))


def joined_value(parts: Sequence[str | None]) -> str | None:
    """Return the value of a key from those of its folders: 2026, 2 and 23 are 2026-02-23.

    2026 and 2 are the month 2026-02.

    Args:
        parts: the value of each folder; None for a null, which makes the whole value null.
    """
    if len(parts) == 1:
        return parts[0]
    known = [part.zfill(2) for part in parts if part is not None]
    return "-".join(known) if len(known) == len(parts) else None


def is_comparable(kind: pa.DataType) -> bool:
    """Return whether a column of this type can be compared with a folder's name."""
    return not (pa.types.is_nested(kind) or pa.types.is_null(kind))


def resolve(column: pa.Array, folder: str | None) -> pa.DictionaryArray:
    """Return the column's values as partition values.

    Args:
        column: the partition key's column inside the file.
        folder: the value of the file's folder.

    Returns:
        Text, null where the column is. A value that equals the folder's but is written otherwise (1
        in the folder `01`) becomes the folder's text, so that a catalogue's values keep their
        meaning.
    """
    codes = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    words = codes.dictionary
    texts = text_of(words)
    if folder is not None:
        same = _equals(words, folder)
        texts = texts if same is None else pc.if_else(same, pa.scalar(folder), texts)
    return pa.DictionaryArray.from_arrays(codes.indices.cast(pa.int32()), texts)


def text_of(values: pa.Array) -> pa.Array:
    """Return values as text; a timestamp of whole seconds is written without a fraction."""
    if pa.types.is_timestamp(values.type):
        utc = values.cast(pa.timestamp(values.type.unit))
        try:
            return utc.cast(pa.timestamp("s")).cast(pa.string())
        except pa.ArrowInvalid:
            return utc.cast(pa.string())
    return values.cast(pa.string())


def _equals(words: pa.Array, folder: str) -> pa.Array | None:
    """Return which words equal the folder's value; None where it cannot be of their type."""
    try:
        wanted = pa.scalar(folder).cast(words.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return pc.fill_null(pc.equal(words, wanted), False)


def disagreements(column: pa.DictionaryArray, folder: str | None) -> int:
    """Count the rows whose value, as `resolve` returns it, is not the folder's."""
    if folder is None:
        return int(len(column) - column.null_count)
    nulls = 0 if folder == NULL_WORD else int(column.null_count)
    others = np.array([word != folder for word in column.dictionary.to_pylist()], np.bool_)
    return nulls + int(others[column.indices.drop_null().to_numpy()].sum())
