"""Places that hold files: a folder, or a bucket of the S3 API."""
