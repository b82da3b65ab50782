"""Figures for Prometheus, of one app: nothing here is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_FINE_SECONDS = (0.001, 0.0025, *_SECONDS)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rag_owl_requests",
            "HTTP requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "rag_owl_request_seconds",
            "Until the answer's last byte.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "rag_owl_open_requests", "Requests that are being answered.", registry=self.registry
        )
        self.stage_seconds = Histogram(
            "rag_owl_stage_seconds",
            "Time of one step of a question: retrieve, load_features, first_token, token, …",
            ["stage", "model"],
            buckets=_FINE_SECONDS,
            registry=self.registry,
        )
        self.counts = Counter(
            "rag_owl_events",
            "What happened: answers, tokens, abstentions, unsupported citations, …",
            ["what", "model"],
            registry=self.registry,
        )
        self.queue = Gauge(
            "rag_owl_lane",
            "Questions: of the model, of model servers, answered in batches, of searches.",
            ["lane", "state"],
            registry=self.registry,
        )
        self.refused = Counter(
            "rag_owl_refused", "Requests refused, by reason.", ["reason"], registry=self.registry
        )
        self.jobs = Gauge("rag_owl_jobs", "Jobs by state.", ["state"], registry=self.registry)
        self.job_documents = Gauge(
            "rag_owl_job_documents",
            "Documents of unfinished jobs.",
            ["state"],
            registry=self.registry,
        )
        self.streams = Gauge(
            "rag_owl_job_streams", "Clients that follow a job.", registry=self.registry
        )

    def write(self) -> bytes:
        return generate_latest(self.registry)
