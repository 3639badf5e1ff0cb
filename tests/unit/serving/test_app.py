"""The application says what is wrong with a request, and answers the others."""

import asyncio
import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from iak.pipeline.serving.app import Server
from iak.pipeline.serving.calibration import ServedCalibration
from iak.pipeline.serving.label_log import LabelLog
from iak.pipeline.serving.requests import ARROW, JSON
from iak.pipeline.serving.service import Service
from iak.schemas.serving import LimitsSpec
from tests.unit.serving.shop import shop_catalog

LIMITS = LimitsSpec(body_mib=0.05, rows=60, seconds=120)
ROW = {
    "event_id": 7, "user_id": "u1", "item_id": 3, "hist": [1, None, 2], "slot": 1, "price": 2.5,
    "age": None, "scene": "feed", "region": "hangzhou",
}  # fmt: skip


@pytest.fixture
def server(nights):
    service = Service(nights[0][0], batch_rows=64, wait_s=0.0)
    yield Server(service, LIMITS)
    service.close()


def ask(server, path="/predict", body=b"", kind=JSON, token=None):
    """Send one request to the application; return status, content type and body."""
    headers = [(b"content-type", kind.encode())]
    headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {
        "type": "http", "method": "POST" if path == "/predict" else "GET", "path": path,
        "raw_path": path.encode(), "query_string": b"", "headers": headers, "http_version": "1.1",
        "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9), "root_path": "",
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(server.app()(scope, receive, send))
    content = b"".join(m.get("body", b"") for m in sent)
    return sent[0]["status"], dict(sent[0]["headers"])[b"content-type"].decode(), content


def rows_body(*changed):
    return json.dumps({"rows": [ROW | change for change in changed]}).encode()


def without(field):
    return json.dumps({"rows": [ROW, {k: v for k, v in ROW.items() if k != field}]}).encode()


def test_arrow_is_answered_as_files_are(server, nights, rows):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.slice(0, 50))
    status, kind, content = ask(server, body=sink.getvalue(), kind=ARROW)
    assert (status, kind) == (200, ARROW)
    assert pa.ipc.open_stream(content).read_all().to_pylist() == nights[0][1][:50]


def test_json_is_answered_as_arrow_is(server, nights, rows):
    asked = rows.slice(0, 20).drop_columns(["click", "order"]).to_pylist()
    status, _, content = ask(
        server, body=json.dumps({"rows": asked}).replace("NaN", "null").encode()
    )
    answer = json.loads(content)
    assert (status, answer["base"]) == (
        200,
        server.service.scorer.base.published.manifest.fingerprint,
    )
    for mine, expected in zip(answer["rows"], nights[0][1], strict=False):
        assert mine["p"] == {n[2:]: v for n, v in expected.items() if n.startswith("p.")}
        for name in ("row", "id", "domain", "kernel", "version", "reason"):
            assert mine[name] == expected[name]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        pytest.param(b"{", 422, "the body is no JSON", id="no json"),
        pytest.param(b"[" * 9999, 422, "the body is no JSON", id="deep json"),
        pytest.param(b'{"rows": 3}', 422, 'expected {"rows"', id="no rows"),
        pytest.param(b'{"rows": [3]}', 422, 'expected {"rows"', id="a row that is none"),
        pytest.param(b"[]", 422, 'expected {"rows"', id="a list"),
        pytest.param(without("price"), 422, "row 1 lacks the field 'price'", id="a field missing"),
        pytest.param(without("region"), 422, "row 1 lacks the field 'region'", id="no domain"),
        pytest.param(
            rows_body({}, {"price": "x"}), 422, "row 1, field 'price': expected a number", id="text"
        ),
        pytest.param(
            rows_body({"slot": True}), 422, "field 'slot': expected a whole number", id="truth"
        ),
        pytest.param(rows_body({"slot": 2**70}), 422, "field 'slot'", id="a huge number"),
        pytest.param(rows_body({"hist": 3}), 422, "field 'hist': expected a list", id="no list"),
        pytest.param(rows_body({"hist": ["a", {}]}), 422, "field 'hist'", id="a list of objects"),
        pytest.param(rows_body({}, {"item_id": "x"}), 422, "field 'item_id'", id="two kinds"),
        pytest.param(rows_body(*[{}] * 61), 413, "61 rows, at most 60", id="too many rows"),
        pytest.param(b"x" * 60_000, 413, "more than 0.05 MiB", id="too large"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(server, body, status, says):
    got, _, content = ask(server, body=body)
    assert got == status
    assert says in json.loads(content)["error"]
    assert ask(server, body=rows_body({}))[0] == 200


@pytest.mark.parametrize("body", [b"", b"ARROW1", b"\xff" * 64])
def test_a_body_that_is_no_arrow_stream_is_refused(server, body):
    status, _, content = ask(server, body=body, kind=ARROW)
    assert (status, "no whole Arrow IPC stream" in json.loads(content)["error"]) == (422, True)


def test_another_content_type_is_refused(server):
    assert ask(server, body=b"a,b", kind="text/csv")[0] == 415


def test_no_rows_are_answered_with_no_rows(server):
    assert json.loads(ask(server, body=b'{"rows": []}')[2])["rows"] == []


@pytest.mark.parametrize("path", ["/predict", "/kernels", "/metrics"])
def test_a_token_is_asked_for_and_health_is_not(server, path):
    server.token = "sesame"
    for token in (None, "other", "säsame"):
        assert ask(server, path, rows_body({}), token=token)[0] == 401
    assert ask(server, path, rows_body({}), token="sesame")[0] == 200
    assert ask(server, "/health")[0] == ask(server, "/ready")[0] == 200


def test_a_server_that_ends_refuses_new_requests(server):
    asyncio.run(server.drain())
    assert ask(server, body=rows_body({}))[0] == 503
    assert (ask(server, "/ready")[0], ask(server, "/health")[0]) == (503, 200)


def test_a_server_whose_thread_has_ended_is_ill(server):
    server.service.close()
    assert ask(server, "/health")[0] == 503


def test_the_kernels_and_the_rows_by_reason_are_told(server):
    ask(server, body=rows_body({}, {"scene": "search"}, {"scene": None}))
    told = json.loads(ask(server, "/kernels")[2])
    assert told["kernels"] == server.service.scorer.routes.versions
    assert "region=ningbo" not in told["kernels"]
    metrics = ask(server, "/metrics")[2].decode()
    for reason in ("own kernel", "its domain has no kernel", "null domain key in scene"):
        assert f'iak_serve_rows_total{{reason="{reason}"}} 1.0' in metrics
    assert 'iak_serve_seconds_count{status="200"} 1.0' in metrics
    written = datetime(2026, 11, 20, 3, tzinfo=UTC).timestamp()
    lines = [line for line in metrics.splitlines() if "iak_serve_kernel_created" in line]
    values = {line.split('"')[1]: float(line.split()[-1]) for line in lines if line[0] != "#"}
    assert values == dict.fromkeys(told["kernels"], written)


def test_what_was_served_is_compared_with_its_labels(nights, rows, place):
    service = Service(nights[0][0], batch_rows=64, wait_s=0.0)
    tasks = service.scorer.tasks
    calibration = ServedCalibration(tasks, rows=1000, share=1.0)
    server = Server(
        service, LIMITS, labels=LabelLog(calibration, shop_catalog(), str(place), days=7)
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.slice(0, 50))
    assert ask(server, body=sink.getvalue(), kind=ARROW)[0] == 200
    server.labels.look()
    told = json.loads(ask(server, "/kernels")[2])["calibration"]
    assert (told["not_read"], len(told["sums"]) > 1) == ("", True)
    clicks = rows.column("click").to_pylist()[:50]
    answered = [row for row, click in zip(nights[0][1], clicks, strict=False) if row["kernel"]]
    labelled = {row["row"] for row, y in zip(nights[0][1], clicks, strict=False) if y is not None}
    for sums in told["sums"]:
        own = [row for row in answered if row["kernel"] == sums["kernel"]]
        assert {row["version"] for row in own} == {sums["version"]}
        if sums["task"] == "ctr":
            own = [row for row in own if row["row"] in labelled]
            assert sums["rows"] == len(own)
            assert sums["predicted"] == pytest.approx(sum(row["p.ctr"] for row in own))
            assert sums["ratio"] in (None, pytest.approx(sums["predicted"] / sums["observed"]))
    metrics = ask(server, "/metrics")[2].decode()
    one = told["sums"][0]
    labels = f'kernel="{one["kernel"]}",task="{one["task"]}",version="{one["version"]}"'
    ways = [f"{name}_total{{{labels}}}" for name in ("iak_serve_predicted", "iak_serve_observed")]
    for way, value in zip(ways, (one["predicted"], one["observed"]), strict=True):
        (line,) = [text for text in metrics.splitlines() if text.startswith(way)]
        assert float(line.split()[-1]) == value
    service.close()


def test_a_request_that_waits_too_long_is_refused(nights):
    service = Service(nights[0][0], batch_rows=64, wait_s=120.0)
    status, _, content = ask(Server(service, LimitsSpec(seconds=0.01)), body=rows_body({}))
    assert (status, "no answer within 0.01 s" in json.loads(content)["error"]) == (503, True)
    service.close()
