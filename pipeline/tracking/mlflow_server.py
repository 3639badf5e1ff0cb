"""Call MLflow's REST API 2.0, with bounded retries and a bound on the time of all calls together.

The API is small and documented, so the client library is not needed: mlflow-skinny 3.17 brings 16
packages, among them a web server and Databricks's SDK, needs an older cachetools than this project,
and takes its retries and timeouts from the environment of the whole process.
"""

import json
import time
from typing import TypeVar
from urllib.parse import quote, urlencode

from pydantic import ValidationError
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from iak.pipeline.errors import BadRequest, Unreachable
from iak.pipeline.tracking.mlflow_answers import Answer, Refusal
from iak.schemas.base import JsonObject

ATTEMPTS = 3
TIMEOUT_S = 30.0
"""For a connection, and for each pause of the server within an answer. On a busy machine a server
on SQLite took more than 10 s for the numbers of one request."""
BUDGET_S = 300.0
"""For all requests of a night together."""
RETRIED_STATUSES = (429, 500, 502, 503, 504)
"""HTTP status codes after which the same request may succeed."""
_MAX_MESSAGE_CHARACTERS = 300
_A = TypeVar("_A", bound=Answer)
_API, _ARTIFACTS = "/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/artifacts/"


class Refused(Unreachable):
    """The server refused a request."""

    code = ""
    """MLflow's own code of the error, such as RESOURCE_DOES_NOT_EXIST; empty where it gave none."""


class MlflowServer:
    """An MLflow server at an address."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        backoff_s: float = 1.0,
        budget_s: float = BUDGET_S,
    ) -> None:
        """Prepare the connection; nothing is sent yet.

        Args:
            address: an http or https address, with or without a path.
            token: for `Authorization: Bearer`; None or empty sends none. No message shows it.
            timeout_s: for a connection, and for each pause of the server within an answer.
            backoff_s: pause before the third attempt; the second follows at once.
            budget_s: for all requests together, from now on.
        """
        if token and not (token.isascii() and token.isprintable()):
            # http.client would refuse it too, with an error that quotes it.
            raise BadRequest(
                "the MLflow server's token holds a line break or characters besides ASCII; "
                "expected one line of printable ASCII in MLFLOW_TRACKING_TOKEN"
            )
        self.address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ends_at = time.monotonic() + budget_s
        self._pool = PoolManager(
            timeout=Timeout(connect=timeout_s, read=timeout_s),
            retries=Retry(
                total=ATTEMPTS - 1,
                # A request whose answer was lost may have been done: a second one would make a
                # second run. The night's next notification finds the first run by its tag.
                read=0,
                # A redirect would carry the token to another address.
                redirect=False,
                status_forcelist=RETRIED_STATUSES,
                allowed_methods=None,
                backoff_factor=backoff_s / 2,
                raise_on_status=False,
                # urllib3 2.8 would wait as long as a server asks, hours too.
                respect_retry_after_header=False,
            ),
        )

    def get(self, path: str, answer: type[_A], **query: str) -> _A:
        """Return the answer to a question.

        Args:
            path: below `/api/2.0/mlflow/`.
            answer: what is read of it.
            query: names and values of the query.

        Raises:
            Refused: the server refuses, with its reason.
            Unreachable: the server does not answer, or not as MLflow does.
        """
        return self._api("GET", f"{path}?{urlencode(query)}", b"", answer)

    def post(self, path: str, body: JsonObject, answer: type[_A]) -> _A:
        """Change something, and return the answer. Arguments and errors are those of `get`.

        Args:
            path: below `/api/2.0/mlflow/`.
            body: the request as JSON values.
            answer: what is read of the answer.
        """
        return self._api("POST", path, json.dumps(body).encode(), answer)

    def delete(self, path: str, body: JsonObject, answer: type[_A]) -> _A:
        """Remove something, and return the answer. Arguments and errors are those of `post`."""
        return self._api("DELETE", path, json.dumps(body).encode(), answer)

    def put_artifact(self, path: str, content: bytes) -> None:
        """Store a file among the artefacts that the server keeps; one of that name is replaced.

        Args:
            path: below the root of the server's artefacts.
            content: its bytes.
        """
        answer = self._request("PUT", _ARTIFACTS + quote(path), content, "application/octet-stream")
        if answer.status != 200:
            raise self._refusal(answer)

    def _api(self, method: str, path: str, body: bytes, kind: type[_A]) -> _A:
        answer = self._request(method, _API + path, body, "application/json")
        if answer.status != 200:
            raise self._refusal(answer)
        try:
            return kind.model_validate_json(answer.data)
        except ValidationError as error:
            raise Unreachable(
                f"{self.address} is no MLflow server, or one of another kind: it answered 200 to "
                f"{path.partition('?')[0]}, without {error.errors()[0]['loc'] or 'JSON'}"
            ) from error

    def _request(self, method: str, path: str, body: bytes, kind: str) -> BaseHTTPResponse:
        if time.monotonic() > self._ends_at:
            raise Unreachable(f"the MLflow server {self.address} is too slow: it was given up")
        headers = {**self._headers, "Content-Type": kind}
        try:
            return self._pool.request(method, self.address + path, body=body, headers=headers)
        except HTTPError as error:
            raise Unreachable(
                f"the MLflow server {self.address} cannot be reached: {_cause(error)}"
            ) from error

    def _refusal(self, answer: BaseHTTPResponse) -> Refused:
        """Return the error for an answer that refuses."""
        try:
            refusal = Refusal.model_validate_json(answer.data)
        except ValidationError:  # the page of a proxy, for example
            refusal = Refusal()
        said = " ".join(refusal.message.split())[:_MAX_MESSAGE_CHARACTERS]
        hint = ". Is MLFLOW_TRACKING_TOKEN right?" if answer.status in (401, 403) else ""
        error = Refused(f"the MLflow server {self.address} answered {answer.status}: {said}{hint}")
        error.code = refusal.error_code
        return error


def _cause(error: BaseException) -> str:
    """Return the kind of an error, of the innermost one where urllib3 wraps it."""
    reason = getattr(error, "reason", None)
    return _cause(reason) if isinstance(reason, BaseException) else type(error).__name__
