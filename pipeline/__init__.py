"""The library: a row's way from Parquet to a published kernel. It never imports ray."""
