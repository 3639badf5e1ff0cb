"""A small MLflow server in memory, which answers what MLflow 3.17.2 does to the same requests."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

API, ARTIFACTS = "/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/artifacts/"


class No(Exception):
    """An answer of 400 or 404, with MLflow's code."""


class FakeMlflow(BaseHTTPRequestHandler):
    """Answer with the codes that the test lists first; 0 breaks the connection."""

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.server.requests.append((self.command, parts.path, dict(self.headers)))
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 0:
            self.close_connection = True
            return
        document = {"error_code": "INTERNAL_ERROR", "message": "as the test wants it"}
        if code == 200 and parts.path.startswith(ARTIFACTS):
            self.server.artifacts[parts.path.removeprefix(ARTIFACTS)] = body
            document = {}
        elif code == 200:
            asked = json.loads(body) if body else dict(parse_qsl(parts.query))
            try:
                document = self._do(parts.path.removeprefix(API), asked)
            except No as no:
                code, document = 400, {"error_code": no.args[0], "message": "no"}
        data = self.server.raw or json.dumps(document).encode()
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _do(self, path, asked):
        fake = self.server
        name = asked.get("name")
        if path == "experiments/get-by-name":
            if asked["experiment_name"] not in fake.experiments:
                raise No("RESOURCE_DOES_NOT_EXIST")
            return {"experiment": {"experiment_id": "1", "lifecycle_stage": fake.stage}}
        if path == "experiments/create":
            fake.experiments.append(name)
            return {"experiment_id": "1"}
        if path == "runs/search":
            wanted = asked["filter"].split("'")[1]
            return (
                {"runs": r}
                if (r := [r for r in fake.runs if r["tags"]["iak.id"] == wanted])
                else {}
            )
        if path == "runs/create":
            number = f"{len(fake.runs):032x}"
            uri = f"{fake.root}/1/{number}/artifacts"
            info = {"run_id": number, "artifact_uri": uri, "run_name": asked["run_name"]}
            tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
            fake.runs.append({"info": info, "data": {"params": []}, "tags": tags, "metrics": {}})
            return {"run": fake.runs[-1]}
        if path.startswith("runs/"):
            return self._change(fake.runs[int(asked["run_id"], 16)], asked)
        return self._model(path, asked, name)

    def _change(self, run, asked):
        run["info"]["status"] = asked.get("status", "RUNNING")
        assert len(asked.get("params", [])) <= 100
        assert len(asked.get("metrics", [])) <= 1000
        known = {param["key"]: param["value"] for param in run["data"]["params"]}
        for param in asked.get("params", []):
            if known.get(param["key"], param["value"]) != param["value"]:
                raise No("INVALID_PARAMETER_VALUE")
            run["data"]["params"].append(param)
        run["tags"] |= {tag["key"]: tag["value"] for tag in asked.get("tags", [])}
        run["metrics"] |= {metric["key"]: metric for metric in asked.get("metrics", [])}
        return {}

    def _model(self, path, asked, name):
        fake = self.server
        if path == "registered-models/create":
            if name in fake.models:
                raise No("RESOURCE_ALREADY_EXISTS")
            fake.models.append(name)
            return {"registered_model": {"name": name}}
        if path == "model-versions/search":
            return {"model_versions": v} if (v := self._versions(asked["filter"])) else {}
        if path == "model-versions/create":
            fake.versions.append({**asked, "version": str(len(fake.versions) + 1)})
            return {"model_version": fake.versions[-1]}
        assert path == "registered-models/alias", path
        if self.command == "POST":
            fake.aliases[asked["alias"]] = asked["version"]
            return {}
        if self.command == "DELETE":
            fake.aliases.pop(asked["alias"], None)
            return {}
        if asked["alias"] not in fake.aliases:
            raise No("INVALID_PARAMETER_VALUE")
        return {"model_version": fake.versions[int(fake.aliases[asked["alias"]]) - 1]}

    def _versions(self, words):
        return [v for v in self.server.versions if f"run_id = '{v['run_id']}'" in words]

    def log_message(self, *words):
        """Print nothing."""


@contextmanager
def fake_mlflow():
    """Yield a server that listens on loopback, with all that it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeMlflow)
    server.requests, server.codes, server.raw = [], [], b""
    server.experiments, server.stage, server.root = [], "active", "mlflow-artifacts:"
    server.runs, server.artifacts = [], {}
    server.models, server.versions, server.aliases = [], [], {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
