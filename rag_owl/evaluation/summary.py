"""From the lines of a run to its report: a function of what was kept, so it can be made again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rag_owl.evaluation import alce, machine, places, scores
from rag_owl.evaluation.dataset import Asked

CUTOFFS = (1, 3, 5, 10, 20)
_MEANS = (
    "f1",
    "exact_match",
    "f1_with_unanswerable",
    "recall",
    "mrr",
    "citation_recall",
    "citation_precision",
    "gold_citation_recall",
    "gold_citation_precision",
    "right_item",
    "pointing",
    "region_iou",
)
# Retrieval is the same whoever answers, and boxes are seldom asked for.
_COMPARED = tuple(name for name in _MEANS if name not in ("recall", "mrr", "region_iou"))
Row = Mapping[str, Any]


def summarise(
    rows: Sequence[Row],
    asked: Sequence[Asked],
    models: Sequence[str],
    *,
    collection: str,
    k: int,
    judge: str,
    dataset: str,
    version: int | None = None,
    unknown: Sequence[str] = (),
) -> dict[str, Any]:
    """The report. rows: all that was kept; of two on one question the later counts. version: the
    collection's of now; unknown: documents of the dataset's `items` that it does not have.
    """
    of_model: dict[str, dict[str, Row]] = {name: {} for name in models}
    searches: dict[str, Row] = {}
    for row in rows:
        if "search" in row:
            searches[row["question"]] = row["search"]
        elif row.get("model") in of_model:
            of_model[row["model"]][row["question"]] = row
    judged = {
        name: {each.id: _score(each, found[each.id]) for each in asked if each.id in found}
        for name, found in of_model.items()
    }
    own = [name for name in models if name == judge]
    return {
        "dataset": {
            "name": dataset,
            "questions": len(asked),
            "answerable": sum(bool(each.answers) for each in asked),
            "with_items": sum(bool(each.items) for each in asked),
        },
        "collection": collection,
        "k": k,
        "judge": {"name": None if judge == "none" else judge, "own_head_of": own},
        "machine": machine.describe(),
        "models": {
            name: _model([e for e in asked if e.id in of_model[name]], of_model[name], judged[name])
            for name in models
        },
        "retrieval": _retrieval(searches, asked),
        "comparisons": _comparisons(judged, models),
        "notes": [*_notes(of_model, judge, own, version), *_missing(unknown)],
        "questions": [_question(each, of_model, judged) for each in asked],
    }


def said(row: Row) -> str:
    """What F1 and exact match are measured on: the short answer, or the text without markers."""
    return row["short"] if row["short"] is not None else alce.without_markers(row["text"])


def _score(asked: Asked, row: Row) -> dict[str, float | None]:
    """One answer by every measure; None: the question cannot say.

    An abstention, and a question that the model failed on, have no right answer and no right item;
    they make no claim either, so nothing is said of their citations.
    """
    score: dict[str, float | None] = dict.fromkeys(_MEANS)
    failed = "error" in row
    silent = failed or row["abstained"]
    if asked.answers:
        score["f1"] = 0.0 if silent else scores.best(scores.f1, said(row), asked.answers)
        score["exact_match"] = (
            0.0 if silent else scores.best(scores.exact, said(row), asked.answers)
        )
    # SQuAD 2.0: where there is no answer, saying so is right.
    score["f1_with_unanswerable"] = score["f1"] if asked.answers else float(silent and not failed)
    if asked.items:
        score["right_item"] = 0.0
        if not failed:
            ranks = places.ranks(row["sources"], asked.items)
            score["recall"] = scores.recall_at(ranks, max(1, len(row["sources"])))
            score["mrr"] = scores.reciprocal_rank(ranks)
    if silent:
        return score
    if row["alce"] is not None:
        score["citation_recall"] = row["alce"]["recall"]
        score["citation_precision"] = row["alce"]["precision"]
    if asked.items:
        score |= _evidence(asked, row["citations"])
    return score


def _evidence(asked: Asked, citations: Sequence[Row]) -> dict[str, float | None]:
    right = [any(places.holds(cited, gold) for gold in asked.items) for cited in citations]
    covered = [any(places.holds(cited, gold) for cited in citations) for gold in asked.items]
    score: dict[str, float | None] = {
        "right_item": float(bool(right) and right[0]),
        "gold_citation_recall": sum(covered) / len(covered),
        "gold_citation_precision": sum(right) / len(right) if right else None,
    }
    boxed = [gold for gold in asked.items if gold.box is not None]
    if boxed:
        pointing, overlap = [], []
        for gold in boxed:
            same = [g.box for g in boxed if (g.document, g.page) == (gold.document, gold.page)]
            found = [places.boxes_of(c["location"]) for c in citations if places.holds(c, gold)]
            pointing.append(any(places.pointed(boxes, gold.box) for boxes in found if gold.box))
            overlap.append(
                max((places.iou(boxes, [b for b in same if b]) for boxes in found), default=0.0)
            )
        score["pointing"] = sum(pointing) / len(pointing)
        score["region_iou"] = sum(overlap) / len(overlap)
    return score


# --- a model's figures ----------------------------------------------------------------------


def _model(
    asked: Sequence[Asked], rows: Mapping[str, Row], judged: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"questions": len(asked)}
    for name in _MEANS:
        values = [judged[each.id][name] for each in asked if judged[each.id][name] is not None]
        figures[name] = float(np.mean(values)) if values else None
        figures[f"{name}_interval"] = list(scores.interval(values)) if values else None
        figures[f"{name}_questions"] = len(values)
    answered = [each for each in asked if "error" not in rows[each.id]]
    figures |= _abstention(answered, rows, judged)
    figures["errors"] = len(asked) - len(answered)
    given = [rows[each.id] for each in answered]
    figures["dangling_markers"] = sum(row["dangling"] for row in given)
    figures["unread_sentences"] = sum(row["alce"]["unread"] for row in given if row["alce"])
    figures["verdicts"] = _tally(c["verdict"] for row in given for c in row["citations"])
    return figures | _costs(given)


def _abstention(
    asked: Sequence[Asked], rows: Mapping[str, Row], judged: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """How well the model knows what it does not know.

    The score is the probability that it gives; of a model that gives none, whether it answered.
    """
    has_answer = np.array([bool(each.answers) for each in asked])
    silent = np.array([bool(rows[each.id]["abstained"]) for each in asked])
    stated = [rows[each.id]["answerable"] for each in asked]
    probable = any(value is not None for value in stated)
    sure = np.array(
        [
            float(not quiet) if not probable else float(not quiet if value is None else value)
            for value, quiet in zip(stated, silent, strict=True)
        ]
    )

    def area(chosen: np.ndarray) -> float:
        return scores.roc_area(sure[chosen][has_answer[chosen]], sure[chosen][~has_answer[chosen]])

    both = len(asked) > 0 and has_answer.any() and not has_answer.all()
    curve = []
    if asked:
        given = [at for at in range(len(asked)) if not silent[at]]
        risk = [1 - (judged[asked[at].id]["f1_with_unanswerable"] or 0.0) for at in given]
        curve = scores.risk_coverage([float(sure[at]) for at in given], risk, len(asked))
    span = scores.interval_of(area, len(asked)) if both else None
    return {
        "abstained": _mean(silent),
        "abstained_of_answerable": _mean(silent[has_answer]) if asked else None,
        "abstained_of_unanswerable": _mean(silent[~has_answer]) if asked else None,
        "abstention_auroc": area(np.arange(len(asked))) if both else None,
        "abstention_auroc_interval": list(span) if span else None,
        "abstention_score": "probability" if probable else "whether it answered",
        "risk_coverage": _thinned(curve),
        "risk_coverage_area": scores.area_under(curve),
    }


def _costs(given: Sequence[Row]) -> dict[str, Any]:
    per_token = [
        (row["seconds"] - row["first_seconds"]) / (row["tokens"] - 1)
        for row in given
        if row["first_seconds"] is not None and (row["tokens"] or 0) > 1
    ]
    firsts = [row["first_seconds"] for row in given if row["first_seconds"] is not None]
    totals = [row["seconds"] for row in given]
    on_gpu = [row["gpu_memory"] for row in given if row["gpu_memory"]]
    return {
        "seconds": _median(totals),
        "seconds_95": float(np.percentile(totals, 95)) if totals else None,
        "seconds_to_first_token": _median(firsts),
        "seconds_per_token": _median(per_token),
        "peak_memory_bytes": max((row["memory"] for row in given), default=None),
        "peak_gpu_memory_bytes": max(on_gpu, default=None),
    }


# --- beside the models -----------------------------------------------------------------------


def _retrieval(searches: Mapping[str, Row], asked: Sequence[Asked]) -> dict[str, Any]:
    """Per channel, over the questions that it can search for."""
    found: dict[str, Any] = {}
    for channel in ("fused", "text", "words", "picture"):
        ranks = [
            searches[each.id][channel]
            for each in asked
            if each.id in searches and channel in searches[each.id]
        ]
        nothing = all(rank is None for each in ranks for rank in each)
        if not ranks or (channel == "picture" and nothing):  # a collection without pictures
            continue
        recall = {k: [scores.recall_at(each, k) for each in ranks] for k in CUTOFFS}
        reciprocal = [scores.reciprocal_rank(each) for each in ranks]
        found[channel] = {
            "questions": len(ranks),
            "recall": {str(k): float(np.mean(values)) for k, values in recall.items()},
            "recall_interval": {str(k): list(scores.interval(v)) for k, v in recall.items()},
            "mrr": float(np.mean(reciprocal)),
            "mrr_interval": list(scores.interval(reciprocal)),
        }
    return found


def _comparisons(
    judged: Mapping[str, Mapping[str, Mapping[str, Any]]], models: Sequence[str]
) -> list[dict[str, Any]]:
    """Every pair of models, on the questions that say something of both."""
    found = []
    for one, other in itertools.combinations(models, 2):
        for name in _COMPARED:
            pairs = [
                (score[name], judged[other][question][name])
                for question, score in judged[one].items()
                if question in judged[other]
                and score[name] is not None
                and judged[other][question][name] is not None
            ]
            if len(pairs) < 2:
                continue
            difference, span, p = scores.paired([a for a, _ in pairs], [b for _, b in pairs])
            found.append(
                {
                    "models": [one, other],
                    "measure": name,
                    "questions": len(pairs),
                    "difference": difference,
                    "difference_interval": list(span),
                    "p": p,
                }
            )
    return found


def _missing(unknown: Sequence[str]) -> list[str]:
    if not unknown:
        return []
    first = ", ".join(repr(name) for name in unknown[:3])
    count = "1 document" if len(unknown) == 1 else f"{len(unknown):,} documents"
    return [
        f"`items` name {count} that the collection does not have, as {first}: what is measured by "
        "them counts as missed."
    ]


def _notes(
    of_model: Mapping[str, Mapping[str, Row]],
    judge: str,
    own: Sequence[str],
    version: int | None,
) -> list[str]:
    notes = []
    if judge == "none":
        notes.append("No judge: citation recall and precision were not measured.")
    else:
        notes.append(f"Citation recall and precision (ALCE) are judged by {judge}.")
    notes += [
        f"The judge is a head of {name} itself: it may share that model's mistakes. Citations "
        "compared with the dataset's own evidence (`items`) stand beside it."
        for name in own
    ]
    asked = [row["version"] for found in of_model.values() for row in found.values()
             if "version" in row]  # fmt: skip
    if version is not None and (old := sum(each != version for each in asked)):
        notes.append(
            f"The collection changed: {old:,} of {len(asked):,} answers are of an earlier state "
            "of it. Another folder (--out) asks all again."
        )
    for name, found in of_model.items():
        failed = [row for row in found.values() if "error" in row]
        if failed:
            notes.append(f"{name} failed on {len(failed)} questions, as: {failed[0]['error']}")
    return notes


def _question(
    asked: Asked,
    of_model: Mapping[str, Mapping[str, Row]],
    judged: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    answers = {}
    for name, found in of_model.items():
        row = found.get(asked.id)
        if row is None:
            continue
        if "error" in row:
            answers[name] = {"error": row["error"], **judged[name][asked.id]}
            continue
        shown = {key: row[key] for key in ("answer", "short", "text", "abstained", "answerable")}
        answers[name] = {**shown, "citations": row["citations"], **judged[name][asked.id]}
    return {
        "id": asked.id,
        "question": asked.question,
        "images": [image.name for image in asked.images],
        "answers": list(asked.answers),
        "models": answers,
    }


# --- small things ----------------------------------------------------------------------------


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _tally(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _thinned(curve: Sequence[tuple[float, float]], most: int = 200) -> list[list[float]]:
    """As many points as a plot can show, the last among them."""
    step = math.ceil(len(curve) / most) or 1
    kept = [*curve[::-1][::step]][::-1]
    return [[coverage, risk] for coverage, risk in kept]
