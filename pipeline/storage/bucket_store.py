"""Keep files in a bucket of the S3 API, by obstore.

obstore alone reads credentials and endpoint from the environment (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION, a role). S3 shows an object whole or not at
all, so nobody reads half an upload.
"""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

import obstore
from obstore import exceptions
from obstore.store import S3Store

from iak.pipeline.errors import BadRequest, NotPermitted, PipelineError, Unreachable
from iak.pipeline.files import link_or_copy
from iak.pipeline.storage.download_cache import DownloadCache, default_cache
from iak.pipeline.storage.folder_store import check_digest, not_stored
from iak.pipeline.storage.store_counter import OF_PROCESS
from iak.schemas.paths import BUCKET

if TYPE_CHECKING:  # obstore 0.12 has these names in its stubs alone
    from obstore.store import ClientConfig, RetryConfig

PROBES = "probes"
RETRIES: "RetryConfig" = {
    # Answers 429 and 5xx, timeouts and broken connections are tried again, later each time.
    "max_retries": 6,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=60),
}
_CLIENT: "ClientConfig" = {
    # The endpoint's own scheme decides: without this obstore refuses an http:// one.
    "allow_http": True,
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=30),
}
_MAX_CREATE_ATTEMPTS = 5
"""Most times that a create is sent while the store answers that another request is under way."""
_SECRETS = ("access_key_id", "secret_access_key", "session_token", "token")


@dataclass(frozen=True, slots=True)
class BucketStore:
    """Files below a prefix of a bucket (`store.py` says what each operation does)."""

    max_requests: ClassVar[int] = (
        16  # a bundle is three small objects, and a night has many bundles
    )
    uri: str
    client: S3Store = field(repr=False)
    cache: DownloadCache

    @classmethod
    def of_uri(cls, uri: str) -> "BucketStore":
        """Return the store of `s3://bucket/prefix`.

        Raises:
            BadRequest: it names no bucket, or the environment's settings contradict each other.
        """
        bucket, _, prefix = uri.removeprefix(BUCKET).strip("/").partition("/")
        if not bucket:
            raise BadRequest(f"{uri} names no bucket; expected s3://bucket/prefix")
        try:
            client = S3Store(
                bucket, prefix=prefix or None, client_options=_CLIENT, retry_config=RETRIES
            )
        except exceptions.BaseError as error:
            raise BadRequest(
                f"{uri}: the environment's settings of S3 do not work together: "
                f"{_first_line(error)}. Look at the variables that begin with AWS_"
            ) from error
        return cls(uri=uri.rstrip("/"), client=client, cache=default_cache())

    def where(self, key: str) -> str:
        """Return the URI of an object."""
        return f"{self.uri}/{key}"

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        with self._translated_errors(key):
            content = bytes(obstore.get(self.client, key).bytes())
        OF_PROCESS.count_read(len(content))
        return content

    def create(self, key: str, content: bytes) -> None:
        """Write an object under a key that must be free.

        obstore 0.12 raises AlreadyExistsError in two cases where no other writer won. S3 answered
        409, which asks to try again. Or the answer to a first request was lost, obstore sent it
        again, and S3 answered 412. So the object is read. Where there is none, the create is sent
        again. Where it has our bytes, it is ours. For that no two writers may write the same
        bytes, and none do: a commit, a lease and a version each name their origin.
        """
        for _ in range(_MAX_CREATE_ATTEMPTS):
            try:
                with self._translated_errors(key):
                    obstore.put(self.client, key, content, mode="create", use_multipart=False)
            except FileExistsError:
                try:
                    if self.read(key) == content:
                        return
                except FileNotFoundError:
                    continue
                raise
            except FileNotFoundError as error:
                raise BadRequest(
                    f"{self.uri}: there is no such bucket. Make it, or name another"
                ) from error
            OF_PROCESS.count_written(len(content))
            return
        raise Unreachable(
            f"{self.where(key)}: {_MAX_CREATE_ATTEMPTS} times the store answered that another "
            "request for it was under way, but there is none. Nothing was changed. Try again later"
        )

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write objects, one after the other."""
        for key, content in files.items():
            with self._translated_errors(key):
                # In one request, also where it is large, so that a killed upload leaves no parts.
                obstore.put(self.client, key, content, use_multipart=False)
            OF_PROCESS.count_written(len(content))

    def upload(self, key: str, file: BinaryIO) -> None:
        """Write an object from a local file, a large one in parts of 5 MB.

        An upload in parts that is killed leaves no object, but parts, which the bucket's own rule
        for unfinished uploads removes (`AbortIncompleteMultipartUpload`).
        """
        with self._translated_errors(key):
            obstore.put(self.client, key, file)
        OF_PROCESS.count_written(file.tell())

    def download(self, key: str, path: Path) -> None:
        """Write an object's bytes to a local path, as they arrive."""
        with self._translated_errors(key), path.open("wb") as file:
            for chunk in obstore.get(self.client, key).stream():
                file.write(chunk)
            OF_PROCESS.count_read(file.tell())

    def written_at(self, key: str) -> float:
        """Return when an object was written; S3 gives whole seconds."""
        with self._translated_errors(key):
            return obstore.head(self.client, key)["last_modified"].timestamp()

    def remove_files(self, keys: Collection[str]) -> None:
        """Remove objects."""
        if keys:
            with self._translated_errors(min(keys)):
                obstore.delete(self.client, sorted(keys))

    def fetch(self, files: Iterable[tuple[str, str, Path]]) -> None:
        """Download objects that the cache lacks, and link all of them from it."""
        for key, sha256, target in files:
            link_or_copy(self.cache.file(sha256, partial(self._download, key, sha256)), target)

    def _download(self, key: str, sha256: str) -> bytes:
        try:
            content = self.read(key)
        except FileNotFoundError as error:
            raise not_stored(self.where(key), "there is no such object") from error
        check_digest(self.where(key), content, sha256)
        return content

    def names(self, below: str = "") -> set[str]:
        """Return names directly below a key."""
        with self._translated_errors(below):
            listing = obstore.list_with_delimiter(self.client, below or None)
        paths = [*listing["common_prefixes"], *(entry["path"] for entry in listing["objects"])]
        return {path.rstrip("/").rpartition("/")[2] for path in paths}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every object."""
        with self._translated_errors(""):
            return {e["path"]: e["size"] for e in obstore.list(self.client).collect()}

    def remove(self, folder: str) -> None:
        """Remove objects. Meanwhile a reader may see some of them, as S3 removes one by one."""
        with self._translated_errors(folder):
            keys = [entry["path"] for entry in obstore.list(self.client, f"{folder}/").collect()]
            if keys:
                obstore.delete(self.client, keys)

    def remove_unfinished(self) -> int:
        """Remove keys of probes that were killed, and downloads that nobody used for a month."""
        self.cache.remove_unused()
        probes = self.names(PROBES)
        if probes:
            self.remove(PROBES)
        return len(probes)

    def one_writer(self) -> AbstractContextManager[None]:
        """Lock nothing: machines share no lock, and `create` keeps their writers apart."""
        return nullcontext()

    def check_creates_once(self) -> None:
        """Create an object twice, under a key of its own: the second time must be refused.

        A store that ignores the condition (`rclone serve s3`, some gateways) would let two
        promotions write the same commit. Only a trial shows it: such a store reports no error.
        """
        key = f"{PROBES}/{secrets.token_hex(8)}"
        self.create(key, b"first")
        try:
            obstore.put(self.client, key, b"second", mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return
        except exceptions.BaseError as error:  # NotImplemented, as some stores answer
            raise self._cannot_promote(_first_line(error)) from error
        else:
            raise self._cannot_promote("a second object replaced the first under the same key")
        finally:
            with self._translated_errors(key):
                obstore.delete(self.client, [key])

    def _cannot_promote(self, what: str) -> BadRequest:
        return BadRequest(
            f"{self.uri}: this store does not keep 'write only where nothing is' (If-None-Match: "
            f"*): {what}. Two promotions at once could overwrite each other, so nothing is "
            "promoted there. Reading works. Use a store with conditional writes (AWS, GCS's and "
            "R2's S3 API, MinIO, Ceph), or a folder"
        )

    @contextmanager
    def _translated_errors(self, key: str) -> Iterator[None]:
        """Turn the store's errors into this project's errors; FileNotFoundError stays."""
        try:
            yield
        except exceptions.AlreadyExistsError as error:
            raise FileExistsError(self.where(key)) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            # The answer may have the access key's name, so it is neither shown nor a cause.
            kind = type(error).__name__.removesuffix("Error")
            raise NotPermitted(
                f"{self.where(key)}: the store refuses it to these credentials ({kind}). Check "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the bucket allows them"
            ) from None
        except exceptions.BaseError as error:
            raise self._unreachable(key, error) from None

    def _unreachable(self, key: str, error: Exception) -> PipelineError:
        message = _first_line(error)
        for name in _SECRETS:
            if secret := self.client.config.get(name):
                message = message.replace(str(secret), "***")
        if "NoSuchBucket" in str(error):
            return BadRequest(f"{self.uri}: there is no such bucket. Make it, or name another")
        return Unreachable(
            f"{self.where(key)}: the store does not answer as it should: {message}. Check the "
            "endpoint (AWS_ENDPOINT_URL), the network and the credentials in the environment, then "
            "run the command again"
        )


def _first_line(error: Exception) -> str:
    """Return the first line of an obstore error, without the structure printed below it."""
    return str(error).strip().splitlines()[0][:600]
