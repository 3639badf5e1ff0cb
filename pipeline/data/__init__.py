"""From Parquet files to batches."""
