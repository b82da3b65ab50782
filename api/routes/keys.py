"""Keys, for who holds one with the scope `admin`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from rag_owl import db
from rag_owl.api import paging, schemas
from rag_owl.api.deps import MayAdmin, Owl
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import problems
from rag_owl.store import keys

router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=problems(), dependencies=[MayAdmin])


@router.get("", response_model=schemas.Page[schemas.Key])
def list_keys(owl: Owl, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
    """The oldest first, also revoked ones; a key for certain collections sees those within its
    own."""
    place = paging.read(cursor, float, str)
    with db.reading(owl.engine) as session:
        found = keys.list_page(session, (place[0], place[1]) if place else None, limit + 1)
    return paging.page(
        found, limit, asdict, lambda key: paging.write(float(key.created_at), key.id)
    )


@router.post("", response_model=schemas.CreatedKey, status_code=201)
def create_key(wanted: schemas.NewKey, owl: Owl) -> dict[str, Any]:
    """The answer's `key` is shown this once and stored nowhere."""
    with db.writing(owl.engine) as session:
        key, secret = keys.create(
            session, wanted.name, wanted.scopes, wanted.collections, wanted.expires_at
        )
    return {**asdict(key), "key": secret}


@router.delete("/{key_id}", response_model=schemas.Key, responses=problems(404))
def revoke_key(
    key_id: Annotated[str, Path(max_length=64, description="The key's id.")], owl: Owl
) -> dict[str, Any]:
    """It opens nothing any more, from the next request on."""
    with db.writing(owl.engine) as session:
        return asdict(keys.revoke(session, key_id))
