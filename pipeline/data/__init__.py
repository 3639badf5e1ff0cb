"""Read a log: from Parquet files to batches of encoded rows, and what `iak check` finds in it."""
