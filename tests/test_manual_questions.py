"""The questions about our own manual ask for what still stands in it."""

from __future__ import annotations

import re
from pathlib import Path

from rag_owl.evaluation import dataset

ROOT = Path(__file__).parents[1]
QUESTIONS = dataset.load(ROOT / "benchmarks" / "quality" / "manual.jsonl").questions
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def test_every_answer_stands_in_its_page() -> None:
    assert len(QUESTIONS) > 60
    assert sum(not each.answers for each in QUESTIONS) >= 20
    for each in QUESTIONS:
        pages = [PAGES[item.document] for item in each.items] or list(PAGES.values())
        said = " ".join(" ".join(page.replace("`", " ").split()) for page in pages)
        for answer in each.answers:
            plain = " ".join(answer.replace("`", " ").split())
            assert re.search(rf"(?<!\w){re.escape(plain)}(?!\w)", said), (each.id, answer)
