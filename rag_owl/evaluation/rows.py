"""One answer as a line of a run: what `summary` makes figures of, whoever asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rag_owl.evaluation import machine
from rag_owl.evaluation.places import place_of
from rag_owl.types import Answer, Citation, Item


def answer_row(
    question: str,
    model: str,
    answer: Answer,
    shown: Sequence[Item | None],
    judged: Mapping[str, Any] | None,
    seconds: float,
    first_seconds: float | None,
) -> dict[str, Any]:
    """question: its id; shown: what the model was shown, None for what is deleted by now; judged:
    an `alce.Score` as a mapping; seconds: to the end, and to the first piece of text.
    """
    memory, gpu_memory = machine.peak_memory()
    return {
        "question": question,
        "model": model,
        "answer": answer.id,
        "text": answer.text,
        "short": answer.short,
        "abstained": answer.abstained,
        "answerable": answer.answerable,
        "generation": answer.generation,
        "citations": [_cited(citation) for citation in answer.citations],
        "sources": [place_of(item) for item in shown if item is not None],
        "dangling": len(answer.dangling_markers),
        "alce": judged,
        "seconds": seconds,
        "first_seconds": first_seconds,
        "tokens": answer.usage.completion_tokens if answer.usage else None,
        "memory": memory,
        "gpu_memory": gpu_memory,
    }


def _cited(citation: Citation) -> dict[str, Any]:
    return {
        "item_id": citation.item_id,
        "document_id": citation.document_id,
        "document_name": citation.document_name,
        "location": asdict(citation.location),
        "marker": citation.marker,
        "quote": citation.quote,
        "verdict": citation.support.verdict,
    }
