"""Collections."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from rag_owl import db
from rag_owl.api import paging, reindexing, schemas, wire
from rag_owl.api.deps import MayAdmin, MayAsk, MayIngest, Options, Owl, Who
from rag_owl.api.errors import Problem
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import problems
from rag_owl.reindexing import begin
from rag_owl.store import collections, generations

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


@router.get(
    "/{name}/generations",
    response_model=schemas.Listed[schemas.Generation],
    responses=problems(404),
    dependencies=[MayAsk],
)
def list_generations(name: Name, owl: Owl) -> dict[str, Any]:
    """What its vectors were made with: those that are searched, before and being made."""
    return {"data": [reindexing.generation(each) for each in owl.generations(name)]}


@router.post(
    "/{name}/reindex",
    response_model=schemas.Job,
    status_code=202,
    responses=problems(404, 409),
    dependencies=[MayAdmin],
)
def reindex_collection(
    name: Name, wanted: schemas.Reindex, owl: Owl, settings: Options, who: Who
) -> dict[str, Any]:
    """Make its vectors anew beside those that are searched, compare, and switch.

    `switch` makes live what was held, `rollback` what was live before; `drop` deletes all vectors
    but the live ones. Names are those that the operator registered.
    """
    with db.reading(owl.engine) as session:
        in_use = generations.embedders_in_use(session, collections.get(session, name).key)
    answerer = reindexing.check_names(
        settings, wanted.text_embedder, wanted.picture_embedder, wanted.answerer, in_use
    )
    with db.writing(owl.engine) as session:
        job_id = begin(
            session,
            name,
            wanted.action,
            text_embedder=wanted.text_embedder,
            picture_embedder=wanted.picture_embedder,
            index_type=wanted.index_type,
            vector_engine=wanted.vector_engine,
            answerer=answerer,
            hold=wanted.hold,
            key_id=who.key_id,
        )
    owl.work_soon()
    return wire.job(owl.job(job_id), owl.folder)


@router.delete(
    "/{name}",
    response_model=schemas.Job,
    status_code=202,
    responses=problems(404),
    dependencies=[MayIngest],
)
def delete_collection(name: Name, owl: Owl) -> dict[str, Any]:
    """From now on there is none of that name; the job removes all that it held, answers too."""
    return wire.job(owl.delete_collection(name), owl.folder)
