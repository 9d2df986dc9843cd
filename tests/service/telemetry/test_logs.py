"""Log lines and spans of a real server."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flowmo.cli.server_process import ServerProcess
from flowmo.service.http.keys import digest_of, new_key
from flowmo.service.telemetry.logs import log_answer
from tests.flowmo.test_cli import flowmo
from tests.service.clusters import wait_until
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
KEY = new_key()
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {
    "Content-Type": "image/png",
    "Authorization": f"Bearer {KEY}",
    "X-Request-ID": "mine",
    "traceparent": f"00-{TRACE}-{PARENT}-01",
}


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP endpoint, and what it is sent."""
    sent: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append(ExportTraceServiceRequest.FromString(data))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()
        thread.join()


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_each_line_is_json_and_tells_what_became_of_a_request(
    checkpoint: Path, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    arguments = [f"--checkpoint={checkpoint}", "--threads=1", "--log-format=json"]
    environment = os.environ | {"FLOWMO_API_KEYS": f"team:{digest_of(KEY)}"}
    with (
        ServerProcess(arguments, log=log, environment=environment) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        fine = client.post(
            "/v1/reconstruct", content=PNG, headers=HEADERS, params={"steps": 2, "seed": 12345}
        )
        assert fine.status_code == 200
        wrong = client.post("/v1/tokenize", content=b"no", headers=HEADERS)
        assert wrong.status_code == 415
        assert client.get("/v1/models").status_code == 401
    found = lines(log)
    good, bad, stranger = (line for line in found if line["logger"] == "flowmo.access")
    assert good["level"] == "INFO"
    assert {name: good[name] for name in ("method", "path", "route", "status", "key")} == {
        "method": "POST",
        "path": "/v1/reconstruct",
        "route": "/v1/reconstruct",
        "status": 200,
        "key": "team",
    }
    assert (good["request_id"], good["trace_id"], good["model"]) == ("mine", TRACE, "nano")
    stages = {"decode_image", "queue", "encode", "sample", "encode_image"}
    assert set(good["stages_ms"]) == stages
    assert 0 <= good["upload_ms"] <= good["duration_ms"]
    assert good["duration_ms"] >= sum(good["stages_ms"].values()) * 0.5
    assert (good["outcome"], len(good["fingerprint"])) == ("ok", 32)
    assert (bad["status"], bad["key"], bad["outcome"]) == (415, "team", "unsupported-image")
    assert (stranger["status"], stranger["outcome"]) == (401, "unauthorized")
    assert "key" not in stranger
    # Uvicorn's own lines are among them, and the machines' questions are not.
    assert any(line["logger"].startswith("uvicorn") for line in found)
    assert not any(line.get("route") == "/readyz" for line in found)
    text = log.read_text()
    assert KEY not in text
    assert "12345" not in text


def test_what_goes_wrong_is_a_line_of_json_too(checkpoint: Path, tmp_path: Path) -> None:
    """A misspelt variable, a warning of a library, and an error that ends a thread."""
    log = tmp_path / "server.log"
    site, served = tmp_path / "site", tmp_path / "served"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib, sys, threading, time\n"
        "if 'serve' in sys.argv or sys.argv[0] == '-m':\n"
        "    def fail():\n"
        f"        while not pathlib.Path({str(served)!r}).exists():\n"
        "            time.sleep(0.05)\n"
        "        import warnings\n"
        "        warnings.warn('a library warns')\n"
        "        raise RuntimeError('a thread fails')\n"
        "    threading.Thread(target=fail, daemon=True).start()\n"
    )
    environment = os.environ | {
        "FLOWMO_LOG_FORMAT": "json",
        "FLOWMO_MAX_BODY_BYTE": "1",
        "PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]]),
    }
    arguments = [f"--checkpoint={checkpoint}", "--threads=1"]
    with ServerProcess(arguments, log=log, environment=environment):
        served.touch()
        wait_until(lambda: "a thread fails" in log.read_text())
    text = [line["message"] for line in lines(log)]
    assert any("did you mean FLOWMO_MAX_BODY_BYTES" in message for message in text)
    assert any("a library warns" in message for message in text)
    (failed,) = (line for line in lines(log) if "nobody caught" in line["message"])
    assert "a thread fails" in failed["exc_info"]


def test_spans_of_a_request_and_its_stages_reach_the_collector(
    checkpoint: Path, tmp_path: Path, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    url, sent = collector
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
    with (
        ServerProcess(
            [f"--checkpoint={checkpoint}", "--threads=1"],
            log=tmp_path / "server.log",
            environment=environment,
        ) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        answer = client.post("/v1/reconstruct", content=PNG, headers=HEADERS, params={"steps": 3})
        assert answer.status_code == 200
    # Those that were left have been sent at the end.
    resources = [resource for request in sent for resource in request.resource_spans]
    names = {
        attribute.value.string_value
        for resource in resources
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }
    assert names == {"flowmo-serve"}
    spans = [
        span
        for resource in resources
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == TRACE
    ]
    (request,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert request.name == "POST /v1/reconstruct"
    attributes = {a.key: a.value for a in request.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["http.route"].string_value == "/v1/reconstruct"
    # FastAPI's span of the route lies between.
    (route,) = (span for span in spans if span.name == "fastapi.endpoint")
    assert route.parent_span_id == request.span_id
    children = sorted(
        (span for span in spans if span.parent_span_id == route.span_id),
        key=lambda span: span.end_time_unix_nano,
    )
    assert [span.name for span in children] == [
        "upload",
        "decode_image",
        "queue",
        "encode",
        "queue",
        "sample",
        "encode_image",
    ]
    for span in children:
        assert request.start_time_unix_nano <= span.start_time_unix_nano + 1_000_000
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    sample = {a.key: a.value for a in children[5].attributes}
    assert sample["flowmo.steps"].int_value == 3
    assert sample["flowmo.model"].string_value == "nano"


def test_a_stranger_cannot_write_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="flowmo.access"):
        log_answer(
            method="GET",
            path="/forged\nINFO: all is well",
            route="unmatched",
            status=404,
            seconds=0.001,
            key=None,
            headers={},
        )
    assert caplog.records[-1].getMessage() == "GET /forged%0AINFO%3A%20all%20is%20well 404 1.0 ms"


def test_an_unknown_format_is_a_usage_error() -> None:
    result = flowmo("serve", "--log-format", "xml")
    assert result.returncode == 2
    assert "--log-format (FLOWMO_LOG_FORMAT)" in result.stderr
