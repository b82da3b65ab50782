"""Values as JSON, the same on the command line and over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rag_owl.store.collections import CollectionInfo
from rag_owl.types import Answer, Citation, Document, Item, Job, Retrieved


def answer(value: Answer) -> dict[str, Any]:
    return {
        "id": value.id,
        "collection": value.collection,
        "question": value.question,
        "text": value.text,
        "short": value.short,
        "abstained": value.abstained,
        "answerable": value.answerable,
        "model": value.model,
        "generation": value.generation,
        "citations": [citation(each) for each in value.citations],
        "dangling_markers": list(value.dangling_markers),
        "left_out": list(value.left_out),
        "pictures": list(value.pictures),
        "video": value.video,
        "moments": [asdict(moment) for moment in value.moments],
        "notes": list(value.notes),
        "created_at": value.created_at,
    }


def citation(value: Citation) -> dict[str, Any]:
    return {
        "start": value.start,
        "end": value.end,
        "marker": value.marker,
        "source": {
            "document_id": value.document_id,
            "document_name": value.document_name,
            "item_id": value.item_id,
            "revision": value.revision,
            "title": value.title,
        },
        "location": asdict(value.location),
        "quote": value.quote,
        "support": asdict(value.support),
    }


def item(value: Item) -> dict[str, Any]:
    return {
        "id": value.id,
        "document_id": value.document_id,
        "document_name": value.document_name,
        "revision": value.revision,
        "kind": value.kind,
        "title": value.title,
        "heading": value.heading,
        "text": value.text,
        "picture": value.picture,
        "location": asdict(value.location),
        "metadata": dict(value.metadata),
    }


def retrieved(value: Retrieved) -> dict[str, Any]:
    return {
        "item": item(value.item),
        "score": value.score,
        "channels": list(value.channels),
        "similarities": dict(value.similarities),
    }


def document(value: Document) -> dict[str, Any]:
    return {**asdict(value), "metadata": dict(value.metadata)}


def job(value: Job) -> dict[str, Any]:
    return asdict(value)


def collection(value: CollectionInfo) -> dict[str, Any]:
    return asdict(value)
