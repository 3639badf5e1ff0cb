"""Send the summary of a night to a webhook. A failure gives a notice and never stops a night.

The path of the address is a secret, as chat services make it. So no message and no log names it.
That is why this uses urllib: urllib3 2.8 writes the path into its log with each retry.
"""

import json
import time
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from iak.pipeline.report.summary import summary_of
from iak.schemas.base import JsonObject
from iak.schemas.night import NightRecord

TIMEOUT_S = 10.0
ATTEMPTS = 3
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes after which the same request may succeed."""


class _NoRedirect(HTTPRedirectHandler):
    """Refuse to send a summary elsewhere; urllib would turn the POST into a GET on the way."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Return no further request, so that the redirect is an error."""
        del req, fp, code, msg, headers, newurl


def send_summary(
    record: NightRecord,
    address: str | None,
    *,
    variable: str,
    timeout_s: float = TIMEOUT_S,
    pause_s: float = 1.0,
) -> str | None:
    """Send one line of JSON; return None, or a notice that says why nothing arrived.

    Args:
        record: the night.
        address: address of the webhook; None or empty where the variable is not set.
        variable: name of the environment variable that holds the address, for the notice.
        timeout_s: seconds that each attempt may take.
        pause_s: seconds before the second attempt; it doubles before each further one.
    """
    if not address:
        return f"No summary was sent: the environment variable {variable} is not set."
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    # urllib would open file: and ftp: as well.
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"No summary was sent: {variable} holds no http or https address."
    data = json.dumps(payload_of(record)).encode()
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        problem, is_transient = _post(address, data, timeout_s)
        if not problem:
            return None
        if not is_transient:
            break
    return f"No summary was sent to the address in {variable}: {problem}."


def payload_of(record: NightRecord) -> JsonObject:
    """Return the JSON object that is sent; chat services show its `text`."""
    return {
        "text": summary_of(record),
        "service": record.name,
        "night": record.night.isoformat(),
        "id": record.id,
        "status": record.status,
        "exit_code": record.exit_code,
        "kernels": dict(record.counts),
        "page": record.page,
    }


def _post(address: str, data: bytes, timeout_s: float) -> tuple[str, bool]:
    """Return the problem, empty where there was none, and whether a retry may succeed."""
    try:
        request = Request(address, data, {"Content-Type": "application/json"}, method="POST")
        with build_opener(_NoRedirect).open(request, timeout=timeout_s):
            return "", False
    except HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code in _TRANSIENT
    except URLError as error:
        # The reason of an unknown host or a refused connection names no path.
        return f"it cannot be reached ({type(error.reason).__name__})", True
    except TimeoutError:
        return f"it did not answer within {timeout_s:g} s", True
    except (OSError, HTTPException, ValueError) as error:
        # Messages of http.client quote the address, so only the type of the error is reported.
        return f"the connection broke ({type(error).__name__})", isinstance(error, OSError)
