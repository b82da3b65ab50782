"""Collections."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from rag_owl import db
from rag_owl.api import paging, schemas, wire
from rag_owl.api.deps import MayAsk, MayIngest, Owl, Who
from rag_owl.api.errors import Problem
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import problems
from rag_owl.store import collections

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=problems())

Name = Annotated[str, Path(max_length=63, description="The collection's name.", examples=["flags"])]


@router.get("", response_model=schemas.Page[schemas.CollectionInfo], dependencies=[MayAsk])
def list_collections(owl: Owl, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
    """By name."""
    place = paging.read(cursor, str)
    with db.reading(owl.engine) as session:
        found = collections.list_page(session, place[0] if place else "", limit + 1)
    return paging.page(found, limit, wire.collection, lambda each: paging.write(each.name))


@router.post(
    "",
    response_model=schemas.CollectionInfo,
    status_code=201,
    responses={200: {"model": schemas.CollectionInfo, "description": "It was there already."}},
    dependencies=[MayIngest],
)
def create_collection(
    wanted: schemas.NewCollection, owl: Owl, who: Who, response: Response
) -> dict[str, Any]:
    """Make a collection, unless there is one of that name. Uploading makes it as well."""
    if who.collections is not None and wanted.name not in who.collections:
        raise Problem(403, "this key is for certain collections, and not for that one", "name")
    with db.writing(owl.engine) as session:
        if collections.exists(session, wanted.name):
            response.status_code = 200
        collections.get_or_create(session, wanted.name)
        return wire.collection(collections.info(session, wanted.name))


@router.get(
    "/{name}",
    response_model=schemas.CollectionInfo,
    responses=problems(404),
    dependencies=[MayAsk],
)
def get_collection(name: Name, owl: Owl) -> dict[str, Any]:
    with db.reading(owl.engine) as session:
        return wire.collection(collections.info(session, name))
