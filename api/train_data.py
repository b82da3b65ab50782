"""From a collection and its questions to examples as a model will meet them.

What is retrieved for each question, in shuffled order, with the item that holds the answer where it
was found; of one in `missing` the answer's items are taken out, and the right thing to say is that
it is not there. Statistics and a preview page are written beside them.
"""

from __future__ import annotations

import base64
import html
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.errors import InvalidInput
from rag_owl.evaluation.dataset import Asked, Dataset
from rag_owl.evaluation.places import holds, place_of
from rag_owl.types import Retrieved

if TYPE_CHECKING:
    from rag_owl.client import RagOwl
    from rag_owl.model.train.examples import Example

_DEEP = 30  # how far down the gold item is looked for
_PREVIEWED = 30


def make(
    owl: RagOwl,
    collection: str,
    dataset: Dataset,
    out: Path,
    *,
    k: int = 5,
    missing: float = 0.15,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write `examples.jsonl`, `pictures/`, `statistics.json` and `preview.html` -> statistics.

    Raises InvalidInput: the folder holds examples already; CollectionNotFound.
    """
    from rag_owl.model.train.examples import FILE, PICTURES

    if (out / FILE).exists():
        raise InvalidInput(f"{out} holds examples already: give another folder, or remove it")
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    examples: list[Example] = []
    arriving = out / f"{FILE}.part"
    with arriving.open("w", encoding="utf-8") as file:
        for number, asked in enumerate(dataset.questions, 1):
            chance = random.Random(f"{seed} {asked.id}")
            example, kind = _example(owl, collection, asked, out, k, missing, chance)
            counts[kind] += 1
            if example is not None:
                examples.append(example)
                file.write(example.line() + "\n")
            if on_progress is not None:
                on_progress(number)
    if not examples:
        raise InvalidInput(f"{dataset.path}: no question gave an example ({dict(counts)})")
    statistics = _statistics(examples, counts)
    (out / "statistics.json").write_text(json.dumps(statistics, indent=2), encoding="utf-8")
    (out / "preview.html").write_text(_page(examples[:_PREVIEWED], statistics, out), "utf-8")
    os.replace(arriving, out / FILE)  # last: the folder is whole now
    return statistics


def _example(
    owl: RagOwl,
    collection: str,
    asked: Asked,
    out: Path,
    k: int,
    missing: float,
    chance: random.Random,
) -> tuple[Example | None, str]:
    from rag_owl.model.statements import ABSTENTION
    from rag_owl.model.train.examples import Example

    try:
        images = [path.read_bytes() for path in asked.images]
    except OSError:
        return None, "picture cannot be read"
    found = owl.search(collection, asked.question, images=images, k=max(k, _DEEP))
    pictures = owl.keep_pictures(images)
    golden = [hit for hit in found if _is_gold(hit, asked)] if asked.answers else []
    others = [hit for hit in found if hit not in golden]
    if asked.answers and not golden:
        return None, "answer not retrieved"
    if golden and chance.random() < missing:
        golden = []
    shown = [*golden[:2], *others][:k]
    chance.shuffle(shown)
    items = tuple(_shown(owl, hit, out) for hit in shown)
    gold = tuple(i for i, hit in enumerate(shown) if hit in golden)
    short, answer = None, ABSTENTION
    if gold:
        short = _said(asked.answers, [shown[i].item.text or "" for i in gold])
        answer = f"{short} " + "".join(f"[{i + 1}]" for i in gold[:1])
    keys = tuple(_keep(owl, key, out) for key in pictures)
    kind = "answered" if gold else ("made unanswerable" if asked.answers else "unanswerable")
    answers = asked.answers if gold else ()
    return Example(asked.id, asked.question, items, answer, keys, short, gold, answers), kind


def _is_gold(hit: Retrieved, asked: Asked) -> bool:
    if not asked.items:
        return any(answer in (hit.item.text or "") for answer in asked.answers)
    return any(holds(place_of(hit.item), gold) for gold in asked.items)


def _said(answers: Sequence[str], texts: Sequence[str]) -> str:
    """The answer that stands in the text, so that it can be pointed at; else the first."""
    return next((a for a in answers if any(a in text for text in texts)), answers[0])


def _shown(owl: RagOwl, hit: Retrieved, out: Path) -> Any:
    from rag_owl.model.train.examples import Shown

    item = hit.item
    picture = _keep(owl, item.picture, out) if item.picture else None
    return Shown(item.id, item.title, item.text, item.heading, picture)


def _keep(owl: RagOwl, key: str, out: Path) -> str:
    from rag_owl.model.train.examples import PICTURES

    path = out / PICTURES / key
    if not path.exists():
        arriving = path.with_suffix(".part")
        arriving.write_bytes(owl.blobs.get(key))
        os.replace(arriving, path)
    return key


def _statistics(examples: Sequence[Example], counts: Counter[str]) -> dict[str, Any]:
    shown = sum(len(e.items) for e in examples)
    ranks = Counter(e.gold[0] + 1 for e in examples if e.gold)
    return {
        "examples": len(examples),
        "kinds": dict(counts),
        "with_pictures_of_the_user": sum(bool(e.images) for e in examples),
        "items_per_example": round(shown / len(examples), 2),
        "items_with_picture": sum(bool(i.picture) for e in examples for i in e.items),
        "gold_at_place": {str(place): ranks[place] for place in sorted(ranks)},
        "characters_of_items": sum(len(i.text or "") for e in examples for i in e.items),
    }


def _page(examples: Sequence[Example], statistics: dict[str, Any], out: Path) -> str:
    """A page for looking at: everything escaped, nothing fetched."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Training examples</title>"
        "<style>body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "article{border-top:1px solid #ccc;padding:1rem 0}img{max-height:5rem;vertical-align:top}"
        "li.gold{background:#eaf6ea}pre{white-space:pre-wrap}</style>"
        f"<h1>Training examples</h1><pre>{html.escape(json.dumps(statistics, indent=2))}</pre>"
    ]
    for example in examples:
        pictures = "".join(_picture(out, key) for key in example.images)
        items = "".join(
            f"<li{' class=gold' if i in example.gold else ''}><b>{html.escape(item.title)}</b> "
            f"{_picture(out, item.picture) if item.picture else ''}"
            f"<br>{html.escape((item.text or '')[:600])}</li>"
            for i, item in enumerate(example.items)
        )
        parts.append(
            f"<article><h2>{html.escape(example.question)}</h2>{pictures}<ol>{items}</ol>"
            f"<p>Answer: <b>{html.escape(example.answer)}</b></article>"
        )
    return "".join(parts)


def _picture(out: Path, key: str) -> str:
    from rag_owl import media
    from rag_owl.model.train.examples import PICTURES

    data = (out / PICTURES / key).read_bytes()
    if len(data) > 200_000:
        return "<i>(large picture)</i>"
    kind = media.sniff(data[: media.SNIFF_BYTES], "")
    return f'<img alt="" src="data:{kind};base64,{base64.b64encode(data).decode()}">'
