"""What owl-nano sees: flags, things, and questions about pictures."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality.scores import roc_area
from benchmarks.quality.warps import warp
from rag_owl.blobs import FolderBlobs
from rag_owl.model.nano.answerer import NanoAnswerer
from rag_owl.model.nano.embedder import NanoPictureEmbedder
from rag_owl.model.train.nano.pictures import Flags, load, load_flags
from rag_owl.ports import PictureEmbedder
from rag_owl.types import Context, ImageLocation, Item, Question, Retrieved

Floats = NDArray[np.float32]
Progress = Callable[[Any], Any]


@dataclass(frozen=True)
class Drawn:
    """The sample's drawn flags, and which real flag each is."""

    pictures: list[Image.Image]
    texts: list[str]
    capitals: list[str]
    names: list[str]
    codes: list[str]


def real_flags(data: Path) -> tuple[list[Image.Image], Flags]:
    flags = load_flags(data)
    folder = data / "countries"
    return [Image.open(folder / c["image"]).convert("RGB") for c in flags.countries], flags


def drawn_flags() -> Drawn:
    from rag_owl.sample.facts import COUNTRIES
    from rag_owl.sample.flags import FLAGS
    from rag_owl.sample.text import describe

    chosen = [c for c in COUNTRIES if c.stem in FLAGS]
    return Drawn(
        [FLAGS[c.stem].render().convert("RGB") for c in chosen],
        [describe(c).text for c in chosen],
        [c.capital for c in chosen],
        [c.name for c in chosen],
        [c.iso.lower() for c in chosen],
    )


def same_rendering(embedder: PictureEmbedder, data: Path, rounds: int = 2) -> float:
    """Every real flag warped, looked up among the real flags: the right country first."""
    pictures, flags = real_flags(data)
    rng = random.Random(1)
    index = embedder.embed_pictures(pictures)
    right = []
    for _ in range(rounds):
        seen = embedder.embed_pictures([warp(p, rng) for p in pictures])
        found = (seen @ index.T).argmax(1)
        right.append(flags.groups[found] == flags.groups)
    return float(np.mean(right))


def drawn_from_real(embedder: PictureEmbedder, data: Path, rounds: int = 3) -> float:
    """The drawn flags indexed, warped real ones as query: the right country first."""
    pictures, flags = real_flags(data)
    drawn = drawn_flags()
    by_code = {c["iso2"].lower(): i for i, c in enumerate(flags.countries)}
    rng = random.Random(2)
    index = embedder.embed_pictures(drawn.pictures)
    own = [by_code[c] for c in drawn.codes if c in by_code]
    groups = [flags.groups[by_code[c]] if c in by_code else -1 for c in drawn.codes]
    right = []
    for _ in range(rounds):
        seen = embedder.embed_pictures([warp(pictures[i], rng) for i in own])
        found = (seen @ index.T).argmax(1)
        right += [groups[f] == flags.groups[i] for f, i in zip(found, own, strict=True)]
    return float(np.mean(right))


def described(embedder: NanoPictureEmbedder, data: Path) -> float:
    """The fact book's first clause on each flag, looked up among all: in the first 10."""
    from rag_owl.model.train.nano.texts import flag_description

    pictures, flags = real_flags(data)
    index = embedder.embed_pictures(pictures)
    hits = []
    for i, country in enumerate(flags.countries):
        text = flag_description(country).split(";")[0]
        if text:
            near = np.argsort(-(index @ embedder.embed_query(f"a flag: {text}")))[:10]
            hits.append(flags.groups[i] in flags.groups[near])
    return float(np.mean(hits))


def unseen_precision(embedder: PictureEmbedder, data: Path, cache: Path, rounds: int) -> float:
    """Caltech classes never trained on: five of the class among 100 besides the query."""
    things = load(data, cache, "unseen")
    vectors = embedder.embed_pictures([Image.fromarray(np.asarray(p)) for p in things.pixels])
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(rounds):
        query = int(rng.integers(len(things.labels)))
        same = np.flatnonzero(things.labels == things.labels[query])
        same = rng.choice(same[same != query], 5, replace=False)
        other = rng.choice(np.flatnonzero(things.labels != things.labels[query]), 95, replace=False)
        near = vectors[np.concatenate([same, other])] @ vectors[query]
        total += float((np.argsort(-near)[:5] < 5).mean())
    return total / rounds


# --- questions about pictures --------------------------------------------------------------------


class Shelf:
    """Pictures as blobs of a real store in a temporary folder, and items that show them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.blobs = FolderBlobs(Path(self._folder.name))

    def put(self, picture: Image.Image) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return self.blobs.put(buffer.getvalue())

    @staticmethod
    def item(name: str, text: str, key: str, title: str = "") -> Item:
        return Item(
            id=name, document_id=name, document_name=name, revision=1, ordinal=0, kind="picture",
            title=title, location=ImageLocation(), text=text, picture=key,
        )  # fmt: skip


def two_flags(model: NanoAnswerer, shelf: Shelf, data: Path, count: int) -> dict[str, float]:
    """Two warped flags, half of the time the same: "Are these the same flag?", answered."""
    pictures, flags = real_flags(data)
    rng = random.Random(3)
    right, same_scores, other_scores = [], [], []
    for number in range(count):
        a = b = rng.randrange(len(pictures))
        same = number % 2 == 0
        while not same and flags.groups[a] == flags.groups[b]:
            b = rng.randrange(len(pictures))
        keys = tuple(shelf.put(warp(pictures[i], rng)) for i in (a, b))
        question = Question("benchmark", "Are these the same flag?", keys)
        draft = model.answer(Context(question, ()))
        right.append((draft.short == "Yes") == same)
        score = model.likeness(*(model.look(k) for k in keys))
        (same_scores if same else other_scores).append(score)
    return {"right": float(np.mean(right)), "area": roc_area(same_scores, other_scores)}


def matching(
    model: NanoAnswerer, shelf: Shelf, groups: Sequence[Sequence[Image.Image]], count: int,
    names: Sequence[str], seed: int, photograph: bool = False,
) -> float:  # fmt: skip
    """Five items with misleading captions, one shows what the user's picture shows.

    groups: pictures per class (one alone: the query is a warp of it). Right: the answer is the
    code in the matching item's text, and that item is cited.
    """
    rng = random.Random(seed)
    right = []
    for _ in range(count):
        classes = rng.sample(range(len(groups)), 5)
        gold = rng.randrange(5)
        shuffled = [names[c] for c in classes]
        rng.shuffle(shuffled)
        codes = [f"{rng.choice('ABCDEFGHK')}{rng.randint(100, 9999)}" for _ in classes]
        pool = list(groups[classes[gold]])
        query, shown = (pool[0], pool[0]) if len(pool) == 1 else rng.sample(pool, 2)
        if photograph:
            query = warp(query, rng)
        sources = []
        for i, label in enumerate(classes):
            picture = shown if i == gold else rng.choice(list(groups[label]))
            text = f"{shuffled[i]}. Its code is {codes[i]}."
            item = Shelf.item(str(i), text, shelf.put(picture))
            sources.append(Retrieved(item, 1.0))
        question = Question("benchmark", "What is the code of this?", (shelf.put(query),))
        best = model.best(Context(question, tuple(sources)))
        right.append(
            best is not None
            and best.item == gold
            and sources[gold].item.text is not None
            and sources[gold].item.text[best.start : best.end] == codes[gold]
        )
    return float(np.mean(right))


def thing_groups(data: Path, cache: Path, part: str) -> tuple[list[list[Image.Image]], list[str]]:
    things = load(data, cache, part)
    groups = [
        [Image.fromarray(np.asarray(things.pixels[i])) for i in np.flatnonzero(things.labels == c)]
        for c in range(len(things.names))
    ]
    return groups, [n.split(",")[0] for n in things.names]
