"""What owl-nano reads: SQuAD articles that it was not trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.scores import exact, f1, roc_area
from rag_owl.model.nano import minilm
from rag_owl.model.nano.answerer import NanoAnswerer
from rag_owl.model.nano.judge import NanoJudge
from rag_owl.model.train.nano.passages import Article, crop, load_squad, token_range
from rag_owl.model.train.nano.statements import CONTRADICTED, SUPPORTED, altered, swaps
from rag_owl.statements import declare
from rag_owl.types import Context, Item, Question, Retrieved, TextLocation

CALIBRATION_ARTICLES = 20  # of the 40 validation articles; thresholds were set on these


@dataclass(frozen=True)
class Case:
    question: str
    answer: str
    texts: list[str]  # four passages of one article
    gold: int
    replaced: str  # what stands in the gold one's place where no answer is wanted

    @property
    def without(self) -> list[str]:
        """The texts with no answer among them."""
        return [self.replaced if i == self.gold else text for i, text in enumerate(self.texts)]


def cases(data: Path, count: int, calibration: bool = False, seed: int = 0) -> list[Case]:
    """Questions with four passages (whole sentences, up to 110 word pieces) of one article."""
    articles = load_squad(data, "val", minilm.tokenizer())
    half = articles[:CALIBRATION_ARTICLES] if calibration else articles[CALIBRATION_ARTICLES:]
    rng = random.Random(seed)
    asked = [(a, q) for a in half if len(a.passages) > 5 for q in a.questions]
    out = []
    for article, question in rng.sample(asked, min(count, len(asked))):
        gold = article.passages[question.passage]
        place = token_range(gold.tokens, *question.spans[0])
        if place is None:
            continue
        others = [i for i in range(len(article.passages)) if i != question.passage]
        picked = [_shown(article, i, None, rng) for i in rng.sample(others, 4)]
        at = rng.randrange(4)
        replaced = picked[at]
        picked[at] = _shown(article, question.passage, place[0], rng)
        out.append(Case(question.question, question.answer, picked, at, replaced))
    return out


def _shown(article: Article, index: int, around: int | None, rng: random.Random) -> str:
    passage = article.passages[index]
    tokens = crop(passage, around, rng, 110)
    return passage.text[tokens.spans[0, 0] : tokens.spans[-1, 1]]


def context(question: str, texts: list[str]) -> Context:
    sources = tuple(
        Retrieved(
            Item(
                id=str(i), document_id=str(i), document_name=f"{i}.txt", revision=1, ordinal=0,
                kind="passage", title="", location=TextLocation(0, len(text)), text=text,
            ),
            score=1.0,
        )
        for i, text in enumerate(texts)
    )  # fmt: skip
    return Context(Question("benchmark", question), sources)


def read(model: NanoAnswerer, cases: list[Case], progress: Any = iter) -> dict[str, float]:
    """The issue's reading rows; the pointer's best span counts, whatever the threshold."""
    f1s, exacts, right, scores, empty_scores = [], [], [], [], []
    for case in progress(cases):
        best = model.point(context(case.question, case.texts), [], [None] * 4)[0]
        said = case.texts[best.item][best.start : best.end]
        f1s.append(f1(said, case.answer))
        exacts.append(exact(said, case.answer))
        right.append(best.item == case.gold)
        scores.append(best.score)
        without = context(case.question, case.without)
        empty_scores.append(model.point(without, [], [None] * 4)[0].score)
    threshold = float(np.quantile(scores, 0.1))
    return {
        "f1": float(np.mean(f1s)),
        "exact": float(np.mean(exacts)),
        "right_item": float(np.mean(right)),
        "no_answer_area": roc_area(scores, empty_scores),
        "abstains_at_90": float(np.mean(np.array(empty_scores) < threshold)),
    }


def embedder_choice(cases: list[Case]) -> float:
    """How often the text embedder puts the right passage of the four first."""
    questions = minilm.sentence_vectors([c.question for c in cases])
    texts = minilm.sentence_vectors([t for c in cases for t in c.texts]).reshape(-1, 4, 384)
    best = np.einsum("nd,nkd->nk", questions, texts).argmax(1)
    return float(np.mean(best == [c.gold for c in cases]))


def sentences_baseline(cases: list[Case]) -> dict[str, float]:
    """The plainest answerer over the same contexts, without its threshold."""
    from rag_owl.indexer.embed import load_text_embedder
    from rag_owl.model.sentences import SentencesAnswerer

    model = SentencesAnswerer(load_text_embedder(), threshold=-1.0)
    f1s, exacts, right = [], [], []
    for case in cases:
        draft = model.answer(context(case.question, case.texts))
        said = draft.short or draft.text
        f1s.append(f1(said, case.answer))
        exacts.append(exact(said, case.answer))
        right.append(bool(draft.attributions) and draft.attributions[0].source == case.gold)
    return {
        "f1": float(np.mean(f1s)),
        "exact": float(np.mean(exacts)),
        "right_item": float(np.mean(right)),
    }


def support(judge: NanoJudge, cases: list[Case], seed: int = 0) -> dict[str, float]:
    """True statements against swapped ones; half of the swaps come from the same item.

    The baseline counts a statement as supported by the share of its words in the item.
    """
    rng = random.Random(seed)
    ours: dict[int, list[float]] = {SUPPORTED: [], CONTRADICTED: []}
    plain: dict[int, list[float]] = {SUPPORTED: [], CONTRADICTED: []}
    for number, case in enumerate(cases):
        text = case.texts[case.gold]
        source = text if number % 2 else case.replaced
        choices = swaps(case.answer, source)
        if not choices:
            continue
        false = altered(case.answer, rng.choice(choices))
        for truth, answer in ((SUPPORTED, case.answer), (CONTRADICTED, false)):
            said = declare(case.question, answer)
            bearing = judge.judge(said, context(said, [text]).sources[0].item)
            ours[truth].append(bearing.supported if bearing else 0.5)
            words = set(said.lower().rstrip(".").split())
            plain[truth].append(len(words & set(text.lower().split())) / len(words))
    return {
        "area": roc_area(ours[SUPPORTED], ours[CONTRADICTED]),
        "word_overlap_area": roc_area(plain[SUPPORTED], plain[CONTRADICTED]),
        "pairs": len(ours[SUPPORTED]),
    }
