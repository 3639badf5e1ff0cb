"""`Spec`, the ancestor of every document: frozen, and a key it does not know is refused."""

import re

from pydantic import BaseModel, ConfigDict

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""The `user:password` of a URI."""


class Spec(BaseModel):
    """A frozen document; the string under a field is that field's help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def redacted(text: str) -> str:
    """Return the text without the user and password of any URI in it."""
    return _USERINFO.sub("***", text)


def without_userinfo(uri: str) -> str:
    """Return a URI as it is.

    Raises:
        ValueError: it holds a user or a password, which would be written wherever the URI is.
    """
    if _USERINFO.search(uri):
        raise ValueError(
            "a URI must not hold a user or a password, which would stand in every record. Leave "
            "them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3), "
            "GOOGLE_APPLICATION_CREDENTIALS (GCS) or AZURE_STORAGE_KEY (Azure) in the environment"
        )
    return uri
