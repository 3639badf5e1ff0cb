"""The index of mapped tables survives JSON, and takes no digest or size that cannot be one."""

import pytest
from pydantic import ValidationError

from iak.schemas.mapped import MAPPED_FORMAT, MappedFile, MappedIndex

BLOCK, SHA = "0123456789abcdef" * 2, "ab" * 32
INDEX = {
    "base_fingerprint": "f" * 64,
    "block_bytes": 4096,
    "files": {"stack-0": {"bytes": 5000, "blocks": [BLOCK, BLOCK[::-1]]}},
    "sha256": SHA,
}


def index(**changes):
    return MappedIndex.model_validate(INDEX | changes)


def test_an_index_survives_json_and_says_what_it_is():
    made = index()
    assert MappedIndex.model_validate_json(made.model_dump_json()) == made
    dumped = made.model_dump()
    assert (dumped["kind"], dumped["format"]) == ("iak-mapped", MAPPED_FORMAT)
    assert made.files["stack-0"] == MappedFile(bytes=5000, blocks=[BLOCK, BLOCK[::-1]])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"kind": "iak-base"}, "kind"),
        ({"format": 2}, "format"),
        ({"block_bytes": 0}, "block_bytes"),
        ({"sha256": "ab"}, "sha256"),
        ({"files": {"x": {"bytes": -1, "blocks": []}}}, "files.x.bytes"),
        ({"files": {"x": {"bytes": 1, "blocks": [BLOCK.upper()]}}}, "files.x.blocks.0"),
        ({"files": {"x": {"bytes": 1, "blocks": [BLOCK[1:]]}}}, "files.x.blocks.0"),
        ({"more": 1}, "more"),
    ],
)
def test_what_no_index_says_is_refused_by_its_key(changes, key):
    with pytest.raises(ValidationError) as refused:
        index(**changes)
    (error,) = refused.value.errors()
    assert ".".join(map(str, error["loc"])) == key


@pytest.mark.parametrize("key", ["base_fingerprint", "block_bytes", "files", "sha256"])
def test_every_key_is_needed(key):
    with pytest.raises(ValidationError, match=key):
        MappedIndex.model_validate({name: INDEX[name] for name in INDEX if name != key})
