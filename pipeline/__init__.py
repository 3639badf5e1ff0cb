"""The library: from Parquet rows to published kernels. It never imports Ray."""
