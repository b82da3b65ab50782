"""The service in this process, over a data folder of its own, for the tests of the HTTP side."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient
from PIL import Image

from rag_owl import db
from rag_owl.api.app import create_app
from rag_owl.client import RagOwl
from rag_owl.settings import read_settings
from rag_owl.store import keys

PATIENCE = 120  # seconds, on a busy machine


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[TestClient]:
    """A client of the service; it works its jobs itself."""
    app = create_app(read_settings(data=data, **{"job_runner": "thread", **settings}))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def opened(client: TestClient) -> RagOwl:
    """The service's own RagOwl, which sees everything."""
    return client.app.state.rag_owl.owl  # type: ignore[attr-defined, no-any-return]


def make_key(
    data: Path, *scopes: str, only: list[str] | None = None, database_url: str | None = None
) -> str:
    """A key, made beside the service as `rag-owl keys create` does."""
    owl = RagOwl.open(data, work_jobs=False, database_url=database_url)
    with owl, db.writing(owl.engine) as session:
        return keys.create(session, "test", scopes or keys.SCOPES, only)[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def finished(client: TestClient, job_id: str, **more: Any) -> dict[str, Any]:
    """The job, once it is done."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}", **more).json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} did not finish")


def upload(
    client: TestClient, collection: str, files: dict[str, bytes], **more: Any
) -> dict[str, Any]:
    """The finished job over the files."""
    sent = client.post(
        f"/v1/collections/{collection}/documents",
        files=[("files", (name, data)) for name, data in files.items()],
        **more,
    )
    assert sent.status_code == 202, sent.text
    more.pop("data", None)
    job = finished(client, sent.json()["job"]["id"], **more)
    assert job["state"] == "done", job
    return job


def png(color: tuple[int, int, int] = (200, 10, 10), size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def problem(response: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    """The problem document, after checking that it is one, of this status, about this field."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert found["detail"]
    assert found.get("field") == field, found
    return found
