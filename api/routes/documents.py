"""Documents: uploaded, listed, read again, replaced, deleted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rag_owl import db, uploads
from rag_owl.api import fetching, files, multipart, paging, schemas, wire
from rag_owl.api.deps import Filter, MayAsk, MayIngest, Owl, The, Who
from rag_owl.api.errors import Problem
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import binary, problems
from rag_owl.api.routes.collections import Name
from rag_owl.client import RagOwl
from rag_owl.media import SNIFF_BYTES, sniff
from rag_owl.store import collections, documents, jobs, quotas
from rag_owl.uploads import Upload

router = APIRouter(
    prefix="/v1/collections/{name}/documents", tags=["documents"], responses=problems(404)
)

DocumentId = Annotated[str, Path(max_length=64, description="The document's id.")]
_MANY_IN_ONE = ("application/jsonl", "text/csv")
_FORM = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "metadata": {
            "type": "string",
            "description": "A JSON object that is laid over the metadata of every document.",
        },
    },
}
_ONE_FILE = {
    **_FORM,
    "properties": {
        "files": {"type": "string", "format": "binary"},
        "metadata": _FORM["properties"]["metadata"],  # type: ignore[index]
    },
}


@router.post(
    "",
    response_model=schemas.Uploaded,
    status_code=202,
    responses=problems(404, 415, 502),
    dependencies=[MayIngest],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _FORM},
                "application/json": {"schema": {"$ref": "#/components/schemas/FromUrl"}},
            },
        }
    },
)
async def add_documents(
    name: Name, owl: Owl, state: The, who: Who, request: Request
) -> dict[str, Any]:
    """Send files; a job makes them searchable. The collection is made where there is none.

    A picture and a text of the same stem (`japan.png`, `japan.txt`) become one document. The same
    name again with other bytes is a new revision. As JSON: one document by its URL, where the
    operator allows that.
    """
    await run_in_threadpool(_check_collection, owl, name)
    with Upload(owl.folder, owl.storage.objects) as upload:
        if _is_json(request):
            metadata = await fetching.receive(request, upload, state)
        else:
            metadata = await multipart.receive(request, upload, state.settings.max_upload_files)
        return await run_in_threadpool(_start, owl, name, upload, metadata, None, who.key_id)


@router.get("", response_model=schemas.Page[schemas.Document], dependencies=[MayAsk])
def list_documents(
    name: Name, owl: Owl, matching: Filter, limit: Limit = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """The oldest first."""
    place = paging.read(cursor, int)
    with db.reading(owl.engine) as session:
        key = collections.get(session, name).key
        found = documents.list_page(session, key, place[0] if place else 0, limit + 1, matching)
    return paging.page(
        found, limit, lambda row: wire.document(row[1]), lambda row: paging.write(row[0])
    )


@router.get("/{document_id}", response_model=schemas.Document, dependencies=[MayAsk])
def get_document(name: Name, document_id: DocumentId, owl: Owl) -> dict[str, Any]:
    with db.reading(owl.engine) as session:
        key = collections.get(session, name).key
        return wire.document(documents.get(session, key, document_id))


@router.head("/{document_id}/content", include_in_schema=False)
@router.get(
    "/{document_id}/content",
    response_class=Response,
    responses=binary("application/octet-stream", "application/pdf", "text/plain", "image/*"),
    dependencies=[MayAsk],
)
def get_content(name: Name, document_id: DocumentId, owl: Owl, request: Request) -> Response:
    """The file as it came. HTML, SVG and whatever else might run are sent as attachment only."""
    with db.reading(owl.engine) as session:
        key = collections.get(session, name).key
        document, blob = documents.content(session, key, document_id)
    if blob is None:
        raise Problem(
            404, "it was a row of a file, which is not kept; see its items", "document_id"
        )
    path = owl.blobs.path(blob)
    media_type = files.media_type_of(path, document.name)
    return files.send(request, path, blob, media_type, PurePosixPath(document.name).name)


@router.put(
    "/{document_id}",
    response_model=schemas.Uploaded,
    status_code=202,
    responses=problems(404, 415),
    dependencies=[MayIngest],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": _ONE_FILE}},
        }
    },
)
async def replace_document(
    name: Name, document_id: DocumentId, owl: Owl, state: The, who: Who, request: Request
) -> dict[str, Any]:
    """One file with other bytes: the document's next revision, searched when it is complete."""
    origin = await run_in_threadpool(_origin, owl, name, document_id)
    with Upload(owl.folder, owl.storage.objects) as upload:
        metadata = await multipart.receive(request, upload, 1)
        file = upload.received[0].name
        media_type = await run_in_threadpool(_media_type, upload, file)
        if media_type in _MANY_IN_ONE:
            raise Problem(
                422, "files: each row of this is a document of its own; give one document", "files"
            )
        return await run_in_threadpool(
            _start, owl, name, upload, metadata, {file: origin}, who.key_id
        )


@router.delete("/{document_id}", status_code=204, dependencies=[MayIngest])
def delete_document(name: Name, document_id: DocumentId, owl: Owl) -> None:
    """From now on nothing of it is found, and stored answers say nothing of it; a job removes its
    files and every byte of it."""
    owl.delete_document(name, document_id)


def _check_collection(owl: RagOwl, name: str) -> None:
    """Before a byte is stored; it is made once all are there.

    Raises `InvalidInput`, `NotFound`, `QuotaExceeded`.
    """
    with db.reading(owl.engine) as session:
        collections.check_may_make(session, name)
        if collections.exists(session, name):
            held = collections.get(session, name)
            quotas.check(session, held, owl.settings.quota_of(name))


def _origin(owl: RagOwl, name: str, document_id: str) -> str:
    with db.reading(owl.engine) as session:
        return documents.origin(session, collections.get(session, name).key, document_id)


def _media_type(upload: Upload, name: str) -> str:
    with (upload.folder / name).open("rb") as file:
        return sniff(file.read(SNIFF_BYTES), name)


def _start(
    owl: RagOwl,
    name: str,
    upload: Upload,
    metadata: Mapping[str, Any],
    origins: Mapping[str, str] | None,
    key_id: str | None,
) -> dict[str, Any]:
    upload.keep()
    with db.writing(owl.engine) as session:
        key = collections.get_or_create(session, name).key
        job_id, _ = jobs.create(
            session, key, "ingest", uploads.parameters(upload, metadata, origins), key_id
        )
    owl.work_soon()
    return {
        "job": wire.job(owl.job(job_id), owl.folder),
        "documents": [{"name": each.name, "sha256": each.sha256} for each in upload.received],
    }


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"
