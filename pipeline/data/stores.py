"""Open the file system of a log, given as path or URI, with bounds on waiting for a store."""

import os
from typing import Any

import pyarrow as pa
import pyarrow.fs

from iak.pipeline.errors import BadRequest

CONNECT_TIMEOUT_S = 5.0
"""Seconds after which an attempt to connect to an object store ends."""
ATTEMPTS = 3
"""Attempts of a request to an object store. They take about a second in all where no process
listens, and 20 s where nothing answers. The AWS SDK's own default is ten attempts."""


Settings = tuple[tuple[str, str], ...]
"""Names and values of environment variables."""


def settings_in_environment() -> Settings:
    """Return the variables by which clients of object stores find addresses and credentials."""
    stores = ("AWS_", "GOOGLE_", "AZURE_")
    return tuple(sorted(each for each in os.environ.items() if each[0].startswith(stores)))


def open_uri(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system and path of a folder given as path or URI.

    Raises:
        BadRequest: the scheme is unknown, the path is malformed, or the store does not answer.
    """
    if "://" not in uri:
        return pa.fs.LocalFileSystem(), uri.rstrip("/")
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadRequest(
            f"data_root '{uri}' is not a folder pyarrow.fs understands: {error}. "
            "Give a path, or a URI such as s3://bucket/folder"
        ) from error
    return _impatient(filesystem), path.rstrip("/")


def kind_of(filesystem: pa.fs.FileSystem, path: str, uri: str) -> pa.fs.FileType:
    """Return whether a path is a folder, a file or nothing.

    Args:
        filesystem: file system of the path.
        path: path in the file system's own form.
        uri: the same as the user gave it, for the message.

    Raises:
        BadRequest: the store does not answer, or does not let this user look.
    """
    try:
        return filesystem.get_file_info(path).type
    except (pa.ArrowInvalid, OSError) as error:
        raise BadRequest(
            f"data_root: {uri} cannot be reached: {error}. Check the address, the network and the "
            "credentials in the environment"
        ) from error


def below(root: str, path: str) -> str:
    """Return the path or URI of a folder below another; options after a `?` stay at the end."""
    head, mark, options = root.partition("?") if "://" in root else (root, "", "")
    return f"{head.rstrip('/')}/{path}{mark}{options}"


def _impatient(filesystem: pa.fs.FileSystem) -> pa.fs.FileSystem:
    """Return the same store with bounds on waiting, which a URI cannot give (pyarrow 26)."""
    if not isinstance(filesystem, pa.fs.S3FileSystem):
        return filesystem
    settings: dict[str, Any] = dict(filesystem.__reduce__()[1][0])
    if settings["connect_timeout"] < 0:
        settings["connect_timeout"] = CONNECT_TIMEOUT_S
    if not settings["proxy_options"]["host"]:
        settings["proxy_options"] = None
    retries = pa.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return pa.fs.S3FileSystem(**settings, retry_strategy=retries)
