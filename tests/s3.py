"""A server of the S3 API for tests, and a proxy before it that fails as a test asks."""

from infra.benchmarks.s3_server import KEYS, Proxy, make_bucket, moto_server, objects_of

__all__ = ["KEYS", "Proxy", "make_bucket", "moto_server", "objects_of", "use"]


def use(monkeypatch, endpoint):
    """Let this process and its children find the server, with keys that it takes."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
