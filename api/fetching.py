"""A document by its URL: off by default, and never a way into the operator's own network."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import Request
from pydantic import ValidationError

from rag_owl.api import multipart, schemas
from rag_owl.api.errors import Problem
from rag_owl.api.state import State
from rag_owl.fetch import fetch
from rag_owl.uploads import Upload


async def receive(request: Request, upload: Upload, state: State) -> dict[str, Any]:
    """What the URL in the body names, into the upload; returns the metadata given with it.

    Raises `Problem`, and `InvalidInput` for an address that may not or cannot be read.
    """
    try:
        wanted = schemas.FromUrl.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "body"
        status = 400 if first["type"] == "json_invalid" else 422
        raise Problem(status, f"{field}: {first['msg']}", field) from None
    multipart.check_metadata(wanted.metadata)
    settings = state.settings
    if not settings.allow_url_ingest:
        raise Problem(403, "url: this service takes no documents by URL; upload the file", "url")
    most, seconds = settings.url_bytes, settings.url_seconds
    await to_thread.run_sync(fetch, wanted.url, upload, most, seconds, limiter=state.fetching)
    return wanted.metadata
