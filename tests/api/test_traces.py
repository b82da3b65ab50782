"""Traces of one question's steps, as OpenTelemetry's SDK gets them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rag_owl import RagOwl
from rag_owl.errors import InvalidSettings
from rag_owl.settings import read_settings
from rag_owl.steps import listening, step, waited
from tests.service import running, upload

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

SECRET = "zebra"
ASKED = {"collection": "owls", "question": f"How much does the {SECRET} owl weigh?"}
STEPS = {"queue", "retrieve", "embed", "search", "answer", "verify", "store"}


@pytest.fixture(scope="module")
def spans() -> Iterator[InMemorySpanExporter]:
    """A process has one provider, for ever; after these tests it hands nothing on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


@pytest.fixture(scope="module")
def client(
    spans: InMemorySpanExporter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    with running(tmp_path_factory.mktemp("traces"), model="sentences") as client:
        upload(client, "owls", {"z.txt": f"The {SECRET} owl weighs 40 grams.".encode()})
        yield client


def of(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_is_one_trace_with_its_steps(
    client: TestClient, spans: InMemorySpanExporter, stream: bool
) -> None:
    spans.clear()
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answered = client.post(
        "/v1/answers", json={**ASKED, "stream": stream}, headers={"traceparent": theirs}
    )
    assert answered.status_code == 200
    found = of(spans)
    steps = {name.removeprefix("rag_owl."): s for name, s in found.items() if "rag_owl." in name}
    assert set(steps) == STEPS
    (request,) = [span for name, span in found.items() if "rag_owl." not in name]
    assert request.name == "POST /v1/answers"
    for span in found.values():  # in the caller's own trace
        assert f"{span.context.trace_id:032x}" == theirs.split("-")[1]
        assert SECRET not in span.to_json()
        assert "owls" not in str(dict(span.attributes or {}))

    def parent(span: ReadableSpan) -> int:
        assert span.parent is not None
        return span.parent.span_id

    assert f"{parent(request):016x}" == theirs.split("-")[2]
    for name in ("queue", "retrieve", "answer", "verify", "store"):
        assert parent(steps[name]) == request.context.span_id, name
    for name in ("embed", "search"):
        assert parent(steps[name]) == steps["retrieve"].context.span_id
    assert dict(steps["retrieve"].attributes or {}) == {"rag_owl.k": 5, "rag_owl.items": 1}
    assert (steps["answer"].attributes or {})["rag_owl.model"] == "sentences"
    times = [steps[name].start_time or 0 for name in ("queue", "retrieve", "answer", "store")]
    assert times == sorted(times)


def test_a_step_that_fails_says_its_kind_and_no_words(spans: InMemorySpanExporter) -> None:
    spans.clear()
    with pytest.raises(ValueError, match=SECRET), step("answer", model="x"):
        raise ValueError(SECRET)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code == trace.StatusCode.ERROR
    assert dict(span.attributes or {}) == {"rag_owl.model": "x", "error.type": "ValueError"}
    assert SECRET not in span.to_json()


def test_health_and_the_page_leave_no_spans(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    spans.clear()
    for path in ("/healthz", "/readyz", "/metrics", "/", "/static/main.js"):
        assert client.get(path).status_code == 200
    assert not spans.get_finished_spans()


def test_the_same_steps_are_in_the_figures(client: TestClient) -> None:
    assert client.post("/v1/answers", json=ASKED).status_code == 200
    figures = client.get("/metrics").text
    for name in STEPS:
        assert f'rag_owl_stage_seconds_count{{model="sentences",stage="{name}"}}' in figures, name


def test_whoever_listens_hears_of_its_own_steps_alone() -> None:
    heard: list[str] = []
    with listening(lambda name, _: heard.append(name)):
        with step("retrieve"), step("embed"):
            pass
        waited("queue", 0.1)
        other = threading.Thread(target=lambda: step("answer").__enter__().__exit__(*[None] * 3))
        other.start()
        other.join()
    with step("store"):
        pass
    assert heard == ["embed", "retrieve", "queue"]


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from rag_owl.api import tracing

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(InvalidSettings, match=r"rag-owl\[otel\]"):
        tracing.configure(read_settings(traces="otlp"))


@pytest.mark.slow
def test_serve_sends_them_to_a_collector(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from benchmarks.http.served import served

    got: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "owl.txt").write_text("The elf owl weighs 40 grams.")
    with RagOwl.open(tmp_path / "data") as owl:
        owl.ingest("owls", [tmp_path / "owl.txt"])
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
            patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
            with served(tmp_path / "data", traces="otlp", job_runner="none") as service:
                url = f"{service.address}/v1/answers"
                assert httpx.post(url, json=ASKED, timeout=60).status_code == 200
        server.shutdown()
        thread.join()
    assert {path for path, _ in got} == {"/v1/traces"}
    (resource,) = {
        attribute.value.string_value
        for _, sent in got
        for each in sent.resource_spans
        for attribute in each.resource.attributes
        if attribute.key == "service.name"
    }
    assert resource == os.environ.get("OTEL_SERVICE_NAME", "rag-owl")
    names = {
        span.name
        for _, sent in got
        for each in sent.resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    }
    assert {f"rag_owl.{name}" for name in STEPS} <= names
    assert "POST /v1/answers" in names
