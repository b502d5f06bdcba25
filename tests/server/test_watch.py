"""What is told of requests: Prometheus' text, log lines, traces, the status page's numbers; and that no text of a message is in any."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from luthier.core.errors import SpecError
from luthier.core.units import Money
from luthier.server import metrics as metrics_file
from luthier.server.metrics import Metrics
from luthier.server.pulse import Pulse
from luthier.server.request_log import JsonLines, line_of, to_lines
from luthier.server.router import Fixed
from luthier.server.routes import PERMISSIONS
from luthier.server.status import FILES
from luthier.server.watch import Seen, Watch
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

SECRET = "my secret question"


def body(text=SECRET, **more):
    return {"model": "router", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def seen():
    return []


@pytest.fixture(scope="module")
def door(open_door, seen):
    rules = [Rule("fail", Reply("x", fails=RuntimeError("secret")))]
    engine = ScriptedEngine(rules, Reply("one two three", token_delay_s=0.01))
    return open_door(engine, permissions=PERMISSIONS, observers=[seen.append])


@pytest.fixture
def asked(door, seen):
    """A few requests, and the `Seen` of each."""
    seen.clear()
    client = door.http()
    client.post("/v1/chat/completions", json=body())
    client.post("/v1/chat/completions", json=body(stream=True))
    client.post("/v1/chat/completions", json=body("fail"))
    client.post("/v1/chat/completions", json=body() | {"model": "other"})
    client.get("/nowhere")
    until_s = time.monotonic() + 5
    while len(seen) < 5 and time.monotonic() < until_s:
        time.sleep(0.01)
    return list(seen)


def sample(text, name, **labels):
    found = [
        one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == name and all(one.labels.get(k) == v for k, v in labels.items())
    ]
    return sum(found)


def test_metrics(door, asked):
    before = door.http().get("/metrics").text
    door.http().post("/v1/chat/completions", json=body(stream=True))
    time.sleep(0.1)
    response = door.http().get("/metrics")
    text = response.text
    assert response.headers["content-type"] == metrics_file.CONTENT_TYPE
    whose = {"model": "router", "release": "router@3"}

    def grown(name, **labels):
        return sample(text, name, **labels) - sample(before, name, **labels)

    assert grown("luthier_requests_total", route="/v1/chat/completions", status="200") == 1
    assert grown("luthier_tokens_total", direction="in", **whose) == 3  # "my secret question"
    assert grown("luthier_tokens_total", direction="out", **whose) == 3
    assert grown("luthier_answers_total", finish="stop", **whose) == 1
    assert grown("luthier_first_token_seconds_count", **whose) == 1
    assert grown("luthier_token_interval_seconds_count", **whose) == 1
    assert 0.005 < grown("luthier_token_interval_seconds_sum", **whose) < 5
    assert grown("luthier_answer_seconds_count", **whose) == 1
    assert sample(text, "luthier_errors_total", code="internal_error") >= 1
    assert sample(text, "luthier_errors_total", code="model_not_found") >= 1
    assert sample(text, "luthier_requests_total", route="-") >= 1
    assert sample(text, "luthier_slots", model="router") == 1
    assert sample(text, "luthier_waiting", model="router") == 0
    assert SECRET not in text


def exchange_of(asked):
    return next(one.exchange for one in asked if one.exchange is not None)


def test_labels_are_bounded_and_escaped(asked):
    from dataclasses import replace

    counted = Metrics(Fixed({}))
    made = exchange_of(asked)
    for n in range(metrics_file.MOST_RELEASES + 5):
        exchange = replace(made, model='a"b\nc', release=f"r@{n}", cost=(0.5, "USD"))
        counted(replace(asked[0], exchange=exchange, guarded={"asked.redact.email": 2}))
    text = counted.text().decode()
    assert sample(text, "luthier_answers_total", model="other") == 5
    assert sample(text, "luthier_answers_total", model='a"b\nc', release="r@0") == 1
    assert sample(text, "luthier_guard_hits_total", guard="asked.redact.email") == 2 * (
        metrics_file.MOST_RELEASES + 5
    )
    assert sample(text, "luthier_cost_total", currency="USD") == pytest.approx(
        0.5 * (metrics_file.MOST_RELEASES + 5)
    )


def test_permissions(open_door):
    weak = open_door(ScriptedEngine())
    for path in ("/metrics", "/status", "/status/data", "/status/status.js"):
        assert weak.http().get(path).status_code == 403
    scraper = open_door(ScriptedEngine(), permissions=frozenset({"metrics"}))
    assert scraper.http().get("/metrics").status_code == 200
    assert scraper.http().post("/v1/chat/completions", json=body()).status_code == 403


def test_what_is_told_of_a_request(asked):
    whole, streamed, failed, missing, lost = asked
    assert [one.status for one in asked] == [200, 200, 500, 404, 404]
    assert [one.code for one in asked] == [None, None, "internal_error", "model_not_found", "unknown_route"]
    assert {one.route for one in asked[:4]} == {"/v1/chat/completions"} and lost.route == "-"
    assert whole.exchange and streamed.exchange and not failed.exchange and not missing.exchange
    line = line_of(whole)
    assert (line["model"], line["release"], line["prompt_tokens"], line["finish"]) == (
        "router",
        "router@3",
        3,
        ["stop"],
    )
    lines = []
    for one in asked:
        to_lines(lines.append)(one)
    assert all(json.loads(one)["event"] == "request" for one in lines)
    assert SECRET not in "".join(lines) and "secret" not in "".join(lines)


def test_other_log_lines_have_the_same_form():
    record = logging.LogRecord("luthier.server", logging.ERROR, "x", 1, "a\nb \x1b[31m %s", ("c",), None)
    text = JsonLines().format(record)
    assert "\n" not in text and "\x1b" not in text
    assert json.loads(text)["message"] == "a\nb \x1b[31m c"


def test_an_observer_that_fails_costs_no_answer(open_door, caplog):
    def broken(_: Seen) -> None:
        raise OSError("full")

    door = open_door(ScriptedEngine(), observers=[broken])
    assert door.http().post("/v1/chat/completions", json=body()).status_code == 200
    time.sleep(0.1)
    assert "an observer failed" in caplog.text
    heard = []
    Watch([broken, heard.append])(Seen("r", "GET", "-", 200, None, None, 0.0, 0.1))
    assert len(heard) == 1


def test_pulse_counts_by_second_and_forgets(asked):
    now = [1000.5]
    pulse = Pulse(Fixed({}), lambda: now[0])
    for one in asked:
        pulse(one)
    now[0] = 1002.0
    pulse(asked[0])
    told = pulse.plain()["seconds"]
    assert [one["at"] for one in told] == [1000, 1002]
    assert told[0]["of"]["router · router@3"]["requests"] == 2
    assert (
        told[0]["of"]["none"] | {"requests": 2, "errors": 2} == told[0]["of"]["none"]
    )  # the failed and the missing
    now[0] = 1301.0
    assert [one["at"] for one in pulse.plain()["seconds"]] == [1002]


def test_the_page_loads_only_its_own_files_and_runs_nothing_else(door):
    http = door.http()
    for path, kind in [
        ("/status", FILES["status.html"]),
        *((f"/status/{name}", FILES[name]) for name in FILES),
    ]:
        response = http.get(path)
        assert (response.status_code, response.headers["content-type"]) == (200, kind)
        policy = response.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert response.headers["x-content-type-options"] == "nosniff"
        text = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "") and "innerHTML" not in text and "eval(" not in text
    page = http.get("/status").text
    assert "<script>" not in page and "style=" not in page and "onload" not in page
    for wrong in ("passwd", "..%2fopenai.py", "status.html%00"):
        assert http.get(f"/status/{wrong}").status_code == 404
    told = http.get("/status/data").json()
    assert told["models"][0] == {
        "name": "router",
        "release": "router@3",
        "engine": "",
        "ready": True,
        "waiting": 0,
        "in_flight": 0,
        "slots": 1,
    }


def test_a_browser_may_type_the_key_for_pages_alone(door):
    with httpx.Client(base_url=door.url, auth=("", door.key), trust_env=False) as browser:
        assert browser.get("/status").status_code == 200
        assert browser.get("/status/data").status_code == 200
        for path in ("/v1/models", "/metrics"):
            assert browser.get(path).status_code == 401
        assert browser.post("/v1/chat/completions", json=body()).status_code == 401
    stranger = httpx.get(f"{door.url}/status", trust_env=False)
    assert (stranger.status_code, stranger.headers["www-authenticate"][:5]) == (401, "Basic")
    for wrong in ("!!", "eDp5", door.key):
        told = httpx.get(f"{door.url}/status", headers={"authorization": f"Basic {wrong}"}, trust_env=False)
        assert told.status_code == 401


def test_what_an_answer_cost(open_door):
    door = open_door(
        ScriptedEngine(default=Reply("a b", token_delay_s=0.05), slots=2), hourly=Money(3600.0, "EUR")
    )
    door.http().post("/v1/chat/completions", json=body())
    amount, currency = door.exchanges[-1].cost
    # 3600 an hour is 1 a second, and one of two slots was held for the 0.1 s of the two tokens and a little
    assert currency == "EUR" and 0.04 < amount < 1.0


def test_traces():
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from luthier.server.traces import Traces

    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traces(
        Seen(
            "req_1",
            "POST",
            "/v1/chat/completions",
            500,
            "internal_error",
            "k",
            1000.0,
            0.5,
            traceparent=parent,
        )
    )
    traces(Seen("req_2", "GET", "/healthz", 200, None, None, 1000.0, 0.5))  # not an operation on a model
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat"
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(0.5)
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert span.attributes["error.type"] == "internal_error"
    assert not span.status.is_ok
    for wrong in ("", "localhost:4318", "file:///etc/passwd", "http://"):
        with pytest.raises(SpecError):
            Traces.to(wrong)


@pytest.mark.parametrize("endpoint", ["", "collector", "ftp://a/b", "http://", "http://[::1", "http://a:b/v1", "http://a:99999/"])  # fmt: skip
def test_what_is_no_collector(endpoint):
    pytest.importorskip("opentelemetry.sdk")
    from luthier.server.traces import Traces

    with pytest.raises(SpecError, match="no address of a collector"):
        Traces.to(endpoint)


def test_traces_of_answers_arrive_at_a_collector(asked):
    """Over OTLP, at a listener of our own."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from luthier.server.traces import Traces

    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        traces = Traces.to(f"http://127.0.0.1:{server.server_port}/v1/traces")
        for one in asked:
            traces(one)
        traces.close()
        server.shutdown()
    spans = [
        span
        for message in received
        for resource in ExportTraceServiceRequest.FromString(message).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(span.name for span in spans) == ["chat", "chat", "chat router", "chat router"]
    told = {a.key: a.value for span in spans if span.name == "chat router" for a in span.attributes}
    assert told["gen_ai.usage.output_tokens"].int_value == 3
    assert told["gen_ai.response.model"].string_value == "router@3"
    assert SECRET.encode() not in b"".join(received)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")
def test_prometheus_itself_reads_it(door, asked, tmp_path):
    host = door.url.removeprefix("http://")
    (tmp_path / "key").write_text(door.key)
    (tmp_path / "p.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: luthier, static_configs: [{{targets: ['{host}']}}],"
        f" authorization: {{credentials_file: {tmp_path / 'key'}}}}}]\n"
    )
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path / 'p.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found: list[dict] = []
        until_s = time.monotonic() + 60
        while not found and time.monotonic() < until_s:
            time.sleep(0.5)
            try:
                told = httpx.get(
                    f"http://127.0.0.1:{port}/api/v1/query",
                    params={"query": "luthier_answers_total"},
                    trust_env=False,
                )
                found = told.json()["data"]["result"]
            except httpx.TransportError:
                continue
        assert found and {one["metric"]["release"] for one in found} == {"router@3"}
    finally:
        process.terminate()
        process.wait(20)
