"""Define what a request to delete users' data touches: the answer of `iak registry forget`."""

from typing import Literal

from pydantic import NonNegativeInt

from iak.schemas.base import Spec
from iak.schemas.registry import Alias, StoredName
from iak.schemas.registry_answer import RegistryAnswer

State = Literal["touched", "untouched", "unknown"]
"""`unknown`: the files that it was made from, or the record that names them, are gone."""


class TouchedFile(Spec):
    """A file of the log that has rows of these users."""

    path: str
    rows: NonNegativeInt


class TouchedBundle(Spec):
    """A stored bundle, judged by all rows of the run that made it.

    A domain's kernel starts from the pooled one, which has seen the rows of all domains.
    """

    stored: StoredName
    domain: str
    aliases: list[Alias]
    """Aliases that point at it now."""
    run: str
    state: State
    rows: NonNegativeInt | None
    """Rows of these users among the files that the run read; null where unknown."""
    reason: str = ""
    """Why it is unknown."""


class TouchedBase(Spec):
    """A base that stored bundles run on, judged by the files of its own snapshot."""

    path: str
    fingerprint: str
    state: State
    rows: NonNegativeInt | None
    reason: str = ""


class TouchedCache(Spec):
    """A cache of activations and labels of rows."""

    path: str
    state: State
    bytes: NonNegativeInt
    is_removed: bool = False


class ForgetReport(RegistryAnswer):
    """`forget`: everything that a deletion request touches."""

    users: NonNegativeInt
    """Users in the request."""
    files: list[TouchedFile] = []
    bundles: list[TouchedBundle] = []
    bases: list[TouchedBase] = []
    caches: list[TouchedCache] = []
