"""How good answers to held-back examples are while a model learns: the figures of `rag-owl eval`.

Each example's own items are the context, so nothing is retrieved again; answers are verified and
measured by the code that `rag-owl eval` runs, without a judge.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rag_owl.errors import InvalidInput, ModelError
from rag_owl.evaluation.dataset import Asked
from rag_owl.evaluation.places import Gold
from rag_owl.evaluation.rows import answer_row
from rag_owl.evaluation.summary import summarise
from rag_owl.evidence import verify
from rag_owl.model.train.examples import Example
from rag_owl.ports import Answerer, Grounded, Grounding

KEPT = (
    "f1",
    "exact_match",
    "f1_with_unanswerable",
    "right_item",
    "gold_citation_recall",
    "gold_citation_precision",
    "abstained_of_answerable",
    "abstained_of_unanswerable",
    "errors",
)


def figures(answerer: Answerer, examples: Sequence[Example]) -> dict[str, float]:
    """Ask every example -> those of `KEPT` that these examples can say."""
    grounding = answerer.grounding if isinstance(answerer, Grounded) else Grounding()
    asked, rows = [], []
    for number, example in enumerate(examples):
        context, name = example.context(), str(number)
        gold = tuple(Gold(example.items[at].id) for at in example.gold)
        short = (example.short,) if example.short else ()
        answers = (example.answers or short) if example.gold else ()
        asked.append(Asked(name, example.question, (), answers, gold))
        start = time.perf_counter()
        try:
            draft = answerer.answer(context)
        except (InvalidInput, ModelError) as error:
            rows.append({"question": name, "model": answerer.name, "error": str(error)})
            continue
        answer = verify(draft, context, 0, grounding=grounding)
        shown = [source.item for source in context.sources]
        seconds = time.perf_counter() - start
        rows.append(answer_row(name, answerer.name, answer, shown, None, seconds, None))
    report: dict[str, Any] = summarise(
        rows,
        asked,
        [answerer.name],
        collection="examples",
        k=max((len(e.items) for e in examples), default=0),
        judge="none",
        dataset="held back",
    )
    found = report["models"][answerer.name]
    return {name: float(found[name]) for name in KEPT if found[name] is not None}
