"""Write and check documents that carry their own SHA-256, so that any changed byte is noticed.

A sealed document is a JSON object with the digest of its other fields in one field, and has one
spelling on disk. That guards against accidents. Against someone who can rewrite the file, guard the
folder.
"""

import hashlib
import json

from iak.schemas.base import JsonObject

SEAL = "sha256"


def seal(document: JsonObject, *, by: str = SEAL) -> JsonObject:
    """Return a document as JSON values, with its digest in the field `by`."""
    plain = json.loads(json.dumps(dict(document)))
    return {**plain, by: digest(plain, by=by)}


def spelled(document: JsonObject, *, allow_nan: bool = False) -> bytes:
    """Return the one spelling of a document on disk: sorted and indented, for people and diffs.

    Raises:
        ValueError: a number is not finite, unless that is allowed.
    """
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=allow_nan)
    return f"{text}\n".encode("ascii")


def parsed(data: bytes, *, allow_nan: bool = False) -> JsonObject:
    """Return the JSON object of a document. Its seal is not checked.

    Raises:
        ValueError: the bytes are not a JSON object.
    """
    constant = None if allow_nan else _refuse_constant
    try:
        document = json.loads(data.decode("ascii"), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON as written by this code: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}, not an object")  # noqa: TRY004
    return document


def check_seal(
    document: JsonObject, data: bytes, *, by: str = SEAL, allow_nan: bool = False
) -> None:
    """Compare a document with its seal and its spelling.

    Raises:
        ValueError: the document was changed; the message has both digests.
    """
    try:
        actual, spelling = digest(document, by=by), spelled(document, allow_nan=allow_nan)
    except ValueError as error:  # 1e999 parses, as infinity
        raise ValueError(f"it holds a number no such document has: {error}") from error
    claimed = document.get(by)
    if claimed != actual or data != spelling:
        raise ValueError(f"it claims SHA-256 {claimed!s:.80}, its content has {actual}")


def digest(document: JsonObject, *, by: str = SEAL) -> str:
    """Return the SHA-256 of a document's canonical JSON, without the field `by`."""
    kept = {key: value for key, value in document.items() if key != by}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
