#!/usr/bin/env bash
# Guess: obstore's AlreadyExistsError of put(mode="create") means that the object is there.
# Seen: it is also raised for HTTP 409, by which S3 says that another conditional request was under way and asks to
# try again. Nobody has the object then. (And for a 412 to its own repeated request, whose first answer was lost.)
# Why it matters: a writer that takes it for a lost race gives up a commit that nobody made.
# Output: 1 request, answered 409: Object at location commit already exists: Error performing PUT http://127.0.0.1:...
# Seen with obstore 0.12.1.
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet obstore==0.12.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

print("version: obstore", obstore.__version__)
requests = []


class Conflict(BaseHTTPRequestHandler):
    def do_PUT(self):
        requests.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(409)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Conflict)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket", endpoint=f"http://127.0.0.1:{server.server_port}", access_key_id="x", secret_access_key="x",
    region="us-east-1", client_options={"allow_http": True},
)
try:
    obstore.put(store, "commit", b"mine", mode="create")
except AlreadyExistsError as error:
    print(f"{len(requests)} request, answered 409: {str(error).splitlines()[0][:90]}")
    if len(requests) != 1:
        sys.exit(f"the behaviour changed: {len(requests)} requests")
    print("as described")
except Exception as error:
    sys.exit(f"the behaviour changed: {type(error).__name__}")
else:
    sys.exit("the behaviour changed: nothing was raised")
PYTHON
