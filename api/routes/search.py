"""Search without an answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from rag_owl.api import schemas, wire
from rag_owl.api.data_urls import read_pictures
from rag_owl.api.deps import MayAsk, Options, Owl
from rag_owl.api.responses import problems
from rag_owl.api.routes.collections import Name

router = APIRouter(prefix="/v1/collections/{name}/search", tags=["search"], responses=problems(404))


@router.post("", response_model=schemas.Listed[schemas.Retrieved], dependencies=[MayAsk])
def search(name: Name, wanted: schemas.Search, owl: Owl, settings: Options) -> dict[str, Any]:
    """The k best items for words, pictures or both, best first."""
    pictures = read_pictures(wanted.images, settings.question_pictures)
    hits = owl.search(name, wanted.query, pictures, wanted.filters, wanted.k, wanted.channels)
    return {"data": [wire.retrieved(hit) for hit in hits]}
