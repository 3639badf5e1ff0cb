"""Read and write the document that lists the best weights so far of a run that trains."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from iak.pipeline.files import put_file
from iak.pipeline.sharding.rectangles import FileEntry
from iak.schemas.base import JsonObject
from iak.schemas.training import TunedTowers

WEIGHTS = "weights.json"
"""File beside the best weights that lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestWeights:
    """The files of the best weights, and the result of training the towers further."""

    files: list[FileEntry]
    """Tables and dense weights."""
    optimizer: list[FileEntry]
    """State of the optimisers."""
    digest: Mapping[str, str]
    """Digest of each tensor."""
    tuned: TunedTowers | None = None
    """Result of training the towers further; None where that was not done."""

    def write(self, folder: Path) -> None:
        """Write this document beside the weights."""
        document: JsonObject = {
            "files": [asdict(entry) for entry in self.files],
            "optimizer": [asdict(entry) for entry in self.optimizer],
            "digest": dict(self.digest),
        }
        if self.tuned is not None:
            document["tuned"] = self.tuned.model_dump(mode="json")
        put_file(folder / WEIGHTS, json.dumps(document))


_DOCUMENT = TypeAdapter(BestWeights)


def read_best(folder: Path) -> BestWeights:
    """Return the document beside the best weights."""
    return _DOCUMENT.validate_json((folder / WEIGHTS).read_bytes())
