"""Search without an answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from rag_owl.api import schemas, wire
from rag_owl.api.data_urls import read_pictures
from rag_owl.api.deps import MayAsk, Owl, The, on_lane
from rag_owl.api.responses import problems
from rag_owl.api.routes.collections import Name
from rag_owl.lane import Ticket
from rag_owl.types import Retrieved

router = APIRouter(prefix="/v1/collections/{name}/search", tags=["search"], responses=problems(404))


@router.post("", response_model=schemas.Found, dependencies=[MayAsk])
async def search(
    name: Name, wanted: schemas.Search, owl: Owl, state: The, request: Request
) -> dict[str, Any]:
    """The k best items for words, pictures or both, best first."""
    notes: list[str] = []

    def work(_: Ticket[list[Retrieved]]) -> list[Retrieved]:
        pictures = read_pictures(wanted.images, state.settings.question_pictures)
        return owl.search(
            name, wanted.query, pictures, wanted.filters, wanted.k, wanted.channels, notes.append
        )

    hits = await on_lane(request, state.searching, work)
    return {"data": [wire.retrieved(hit) for hit in hits], "notes": notes}
