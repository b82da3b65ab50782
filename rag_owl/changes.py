"""What is different in an answer that was asked for again: over HTTP and in an evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rag_owl.types import Answer


def changes(before: Answer, now: Answer) -> dict[str, Any]:
    """Of two answers to one question: text, abstention, and items shown and cited, by their ids."""

    def changed(old: Iterable[str], new: Iterable[str]) -> dict[str, list[str]]:
        had, has = list(dict.fromkeys(old)), list(dict.fromkeys(new))
        return {
            "added": [each for each in has if each not in had],
            "removed": [each for each in had if each not in has],
        }

    return {
        "previous": before.id,
        "text": before.text != now.text,
        "abstained": before.abstained != now.abstained,
        "sources": changed(before.sources, now.sources),
        "cited": changed(
            (each.item_id for each in before.citations), (each.item_id for each in now.citations)
        ),
    }
