"""List the files of a log, and sort out those that its catalogue cannot read."""

from iak.pipeline.data import contract, kinds, logs
from iak.pipeline.data.listing import Admits
from iak.pipeline.data.snapshot import Snapshot
from iak.schemas.log import Catalog


def catalog_files(
    uri: str, catalog: Catalog, *, version: int | None, admits: Admits = lambda _: True
) -> Snapshot:
    """Return the snapshot of a log, with what breaks the contract among its unreadable files.

    Args:
        uri: folder of the log.
        catalog: its catalogue.
        version: version of a table; None for the newest, or for a plain folder.
        admits: called with the partition values known so far (outer keys first); False prunes.

    Raises:
        BadRequest: the folder does not exist, or a table lacks the version or a partition key.
        BadLog: a table format that cannot be read.
    """
    snapshot = logs.take_snapshot(
        uri,
        partition_keys=catalog.log.partition_keys,
        folder_names=catalog.log.folder_names,
        admits=admits,
        schema_problem=lambda schema: contract.schema_problem(schema, catalog),
        version=version,
    )
    return kinds.without_odd_floats(snapshot, catalog)
