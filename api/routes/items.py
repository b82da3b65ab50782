"""Items: what is found and cited, with its picture or film."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from rag_owl import db
from rag_owl.api import files, paging, schemas, wire
from rag_owl.api.deps import Filter, MayAsk, Owl, The
from rag_owl.api.errors import Problem
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import binary, problems
from rag_owl.api.routes.collections import Name
from rag_owl.store import collections, listing
from rag_owl.types import Item

router = APIRouter(
    prefix="/v1/collections/{name}/items",
    tags=["items"],
    responses=problems(404),
    dependencies=[MayAsk],
)

ItemId = Annotated[str, Path(max_length=64, description="The item's id.")]
_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff")


@router.get("", response_model=schemas.Page[schemas.Item])
def list_items(
    name: Name,
    owl: Owl,
    matching: Filter,
    document: Annotated[
        str | None, Query(max_length=64, description="Of this document alone.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """What is searched now, the oldest first."""
    place = paging.read(cursor, int)
    with db.reading(owl.engine) as session:
        key = collections.get(session, name).key
        found = listing.item_page(
            session, key, document, matching, place[0] if place else 0, limit + 1
        )
    return paging.page(
        found, limit, lambda row: wire.item(row[1]), lambda row: paging.write(row[0])
    )


@router.get("/{item_id}", response_model=schemas.Item)
def get_item(name: Name, item_id: ItemId, owl: Owl) -> dict[str, Any]:
    """Any item, also of an older revision: what was cited can always be looked at."""
    return wire.item(owl.item(name, item_id))


@router.head("/{item_id}/media", include_in_schema=False)
@router.get(
    "/{item_id}/media",
    response_class=Response,
    responses=binary(*_PICTURES, "video/mp4", "video/webm", "application/octet-stream"),
)
def get_media(name: Name, item_id: ItemId, owl: Owl, request: Request) -> Response:
    """Its picture, or the film that it is a stretch of. Ranges and ETags are understood."""
    item = owl.item(name, item_id)
    key = item.video or item.picture
    if key is None:
        raise Problem(404, "this item has no picture and no film; see its text", "item_id")
    path = owl.blobs.path(key)
    return files.send(request, path, key, files.media_type_of(path, item.document_name))


@router.head("/{item_id}/thumbnail", include_in_schema=False)
@router.get(
    "/{item_id}/thumbnail",
    response_class=Response,
    responses=binary("image/jpeg"),
)
async def get_thumbnail(
    name: Name,
    item_id: ItemId,
    owl: Owl,
    state: The,
    request: Request,
    size: Annotated[int, Query(ge=16, le=1024, description="Of the longer side.")] = 256,
) -> Response:
    """Its picture, small, as JPEG."""

    def make() -> Response:
        path, etag = state.thumbnails.of(_picture(owl.item(name, item_id)), size)
        return files.send(request, path, etag, "image/jpeg")

    return await to_thread.run_sync(make, limiter=state.drawing)


@router.head("/{item_id}/page", include_in_schema=False)
@router.get(
    "/{item_id}/page",
    response_class=Response,
    responses=binary(*_PICTURES),
)
def get_page(name: Name, item_id: ItemId, owl: Owl, request: Request) -> Response:
    """The picture of the page that the item stands on; for a box, see its `location`."""
    item = owl.item(name, item_id)
    if item.location.type != "page":
        raise Problem(404, "this item does not stand on a page", "item_id")
    key = _picture(item)
    path = owl.blobs.path(key)
    return files.send(request, path, key, files.media_type_of(path))


def _picture(item: Item) -> str:
    if item.picture is None:
        raise Problem(404, "this item has no picture; see its text", "item_id")
    return item.picture
