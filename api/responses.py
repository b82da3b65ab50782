"""The problem documents that a route may answer with, for the OpenAPI document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from rag_owl.api import errors, schemas

_ALWAYS = (400, 401, 403, 408, 413, 421, 422, 429, 500, 503, 507)


def problems(*further: int) -> dict[int | str, dict[str, Any]]:
    """Those that every route knows, and `further` ones."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {errors.MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted({*_ALWAYS, *further})
    }


def binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """A route that sends a file: whole, a range of it, or nothing where the client has it."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    return {
        200: {"description": "The bytes.", "content": content},
        206: {"description": "The range of them that was asked for.", "content": content},
        304: {"description": "They are what the client has already."},
        **problems(404, 416),
    }


__all__ = ["binary", "problems", "schemas"]
