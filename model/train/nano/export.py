"""Set `lean`, calibrate, and write the bundled files: python -m rag_owl.model.train.nano.export …

Thresholds are set on the first 20 of the 40 validation articles, on flags under the training's
warps (the benchmark's are others), and on half of tiny-imagenet's validation pictures; the
benchmark measures on the other 20 articles, other warps, the other half, and classes never trained
on. `lean` and the threshold of picture questions are set on the same half.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rag_owl.model.nano import minilm, weights
from rag_owl.model.nano.embedder import scales
from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.pointing import spans
from rag_owl.model.nano.reader import Reader
from rag_owl.model.nano.signals import held
from rag_owl.model.nano.window import Piece, collate, lay_out, tokenise
from rag_owl.model.train.nano import lean, passages, texts, warp
from rag_owl.model.train.nano.eyes import embed, precision_at_5
from rag_owl.model.train.nano.passages import Episode
from rag_owl.model.train.nano.pictures import SIDE, Flags, load, load_flags
from rag_owl.model.train.nano.reader import Material, load_eyes, windows_of, with_pictures
from rag_owl.model.train.nano.statements import CONTRADICTED, SUPPORTED, statement

CALIBRATION_ARTICLES = 20
TEXT_SHARE = 0.2
ENOUGH = 0.01
"""By how much a smaller share of the instance part may be worse: it was trained on these flags and
on classes of these things, and what is met later is mostly of others, which appearance tells apart
better."""


def logistic(
    x: NDArray[np.float64], truths: Sequence[bool] | NDArray[np.bool_], strength: float = 1.0
) -> tuple[NDArray[np.float64], float]:
    """Logistic regression of truths (n,) on x (n, k) by Newton's method, with `strength` of L2 on
    standardised columns -> weights (k,), offset."""
    y = np.asarray(truths, dtype=float)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    z = np.c_[(x - mean) / scale, np.ones(len(x))]
    w = np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -30, 30)))
        hessian = (z * (p * (1 - p))[:, None]).T @ z + strength * np.eye(len(w))
        w += np.linalg.solve(hessian, z.T @ (y - p) - strength * w)
    weights = w[:-1] / scale
    return weights, float(w[-1] - weights @ mean)


@torch.inference_mode()
def scores_of(
    reader: Reader, eyes: Eyes, material: Material, episodes: list[Episode]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of the best span of each: (n, 3) its score, its item's logit and the share of the question's
    terms that the item holds; and whether it is (one of) the right ones, to a token."""
    scores, right = [], []
    for at in range(0, len(episodes), 16):
        batch = episodes[at : at + 16]
        windows = windows_of(material.tokenizer, batch)
        rows = collate(windows)
        if batch[0].user_picture is not None:
            g = torch.Generator().manual_seed(at)
            features, *parts = eyes(material.pictures.render(batch, g))
            hide = [False] * len(batch)
            with_pictures(rows, windows, batch, features, torch.cat(parts, 1), hide, eyes)
        reading = reader(rows)
        for b, (window, episode) in enumerate(zip(windows, batch, strict=True)):
            one = type(reading)(
                reading.start[b : b + 1], reading.end[b : b + 1],
                reading.item[b : b + 1], reading.support[b : b + 1],
            )  # fmt: skip
            found = spans(one, [window])
            if found:
                best = found[0]
                text = material.tokenizer.decode(episode.items[best.item][1].ids)
                head = material.tokenizer.decode(episode.items[best.item][0])
                terms = held(episode.question, text, head)
                scores.append((best.score, best.item_logit, terms))
                right.append(_overlaps(best.item, best.start, best.end, episode))
    return np.array(scores), np.array(right)


def _overlaps(item: int, start: int, end: int, episode: Episode) -> bool:
    for index, first, last in episode.answers:
        text = episode.items[index][1]
        low, high = int(text.spans[first, 0]), int(text.spans[last, 1])
        if item == index and start < high and low < end:
            return True
    return False


def reading_calibration(
    reader: Reader, eyes: Eyes, material: Material, count: int
) -> dict[str, float]:
    """A probability from the best span's score, for questions without and with a picture, and the
    thresholds that keep 90 % of those that are answered right. For questions without a picture
    `benchmarks.quality.abstention` sets better ones, over more kinds of text."""
    rng = random.Random(0)
    none = np.zeros(0, np.int32)
    articles = [a for a in material.articles[:CALIBRATION_ARTICLES] if len(a.passages) > 4]
    asked = [(a, q) for a in articles for q in a.questions]
    plain = [
        passages.squad_episode(a, q, rng, none, passages=4, answerable=i % 2 == 0)
        for i, (a, q) in enumerate(rng.sample(asked, min(count, len(asked))))
    ]
    pictured = [
        material.pictures.flag(rng, silent=0.3)
        if rng.random() < 0.7
        else material.pictures.thing(rng)
        for _ in range(count)
    ]
    for episode in pictured:
        episode.strange = False  # that is for learning
    out: dict[str, float] = {}
    for kind, episodes, columns in (("plain", plain, 1), ("pictured", pictured, 3)):
        x, right = scores_of(reader, eyes, material, episodes)
        w, offset = logistic(x[:, :columns], right)
        likely = 1 / (1 + np.exp(-np.clip(x[:, :columns] @ w + offset, -30, 30)))
        out |= {f"{kind}_slope": float(w[0]), f"{kind}_offset": offset}
        if columns == 3:
            out |= {f"{kind}_item": float(w[1] / w[0]), f"{kind}_terms": float(w[2] / w[0])}
        out[f"{kind}_threshold"] = float(np.quantile(likely[right], 0.1))
        print(f"{kind}: right {right.mean():.3f}, above the threshold but wrong "
              f"{(likely[~right] >= out[f'{kind}_threshold']).mean():.3f}")  # fmt: skip
    return out


def looking_calibration(eyes: Eyes, flags: Flags, data: Path, cache: Path) -> dict[str, float]:
    """How the cosine is shared between the instance and the appearance part, and from which cosine
    on two flags are the same."""
    things = load(data, cache, "held")
    parts = embed(eyes, things.pixels)
    labels = torch.from_numpy(things.labels)
    groups = torch.from_numpy(flags.groups)
    stored = torch.from_numpy(flags.pixels).permute(0, 3, 1, 2).float() / 255
    g = torch.Generator().manual_seed(11)
    aspects = torch.from_numpy(flags.aspects)
    views = []
    for _ in range(2):
        ground = torch.rand(len(stored), 3, 1, 1, generator=g).expand(-1, -1, SIDE, SIDE)
        photo = warp.photograph(stored, aspects, ground, SIDE, g)
        views.append(embed(eyes, (photo.permute(0, 2, 3, 1) * 255).byte().numpy()))
    tried: list[tuple[float, dict[str, float]]] = []
    for instance in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        found = {"instance_share": instance, "text_share": TEXT_SHARE}
        scale = scales(eyes, found)
        cosines = (torch.cat(views[0], 1) * scale) @ (torch.cat(views[1], 1) * scale).T
        first = float((groups[cosines.argmax(1)] == groups).float().mean())
        near = precision_at_5(torch.cat(parts, 1) * scale, labels, rounds=2000)
        same = cosines[groups[:, None] == groups[None]]
        other = cosines[groups[:, None] != groups[None]]
        # as many pairs of each kind count: half of the questions are about the same flag
        steps = torch.linspace(-0.2, 1, 241)
        share_right = [(float((same >= t).float().mean()) + float((other < t).float().mean())) / 2
                       for t in steps]  # fmt: skip
        threshold = float(steps[int(np.argmax(share_right))])
        print(f"instance {instance}: flags {first:.3f}, tiny-imagenet p@5 {near:.3f}, "
              f"same or not {max(share_right):.3f} at {threshold:.3f}")  # fmt: skip
        tried.append((first + near + max(share_right), {**found, "same": threshold}))
    best = max(score for score, _ in tried)
    return next(found for score, found in tried if score > best - ENOUGH)


def text_calibration(eyes: Eyes, material: Material, data: Path, cache: Path) -> dict[str, float]:
    """The cosine of a text and a picture's text part that 99 of 100 unrelated pairs stay below:
    questions of the calibration articles and half of tiny-imagenet's validation pictures."""
    things = load(data, cache, "held")
    text_part = embed(eyes, things.pixels)[1]
    asked = [q.question for a in material.articles[:CALIBRATION_ARTICLES] for q in a.questions]
    questions = minilm.sentence_vectors(random.Random(5).sample(asked, 200))
    unrelated = (text_part @ torch.from_numpy(questions).T).flatten().numpy()
    names = texts.class_vectors(things.names)
    own = (text_part * names[torch.from_numpy(things.labels)]).sum(1).numpy()
    floor = float(np.quantile(unrelated, 0.99))
    share = (own >= floor).mean()
    print(f"text floor {floor:.3f}; above it with their own name: {share:.3f}")
    return {"text_floor": floor}


def support_calibration(reader: Reader, material: Material, count: int) -> dict[str, float]:
    """From which probabilities on a statement counts as supported, and as contradicted: 9 of 10
    true statements are at least so supported, 1 of 20 is at least so contradicted."""
    rng = random.Random(6)
    none = np.zeros(0, np.int32)
    asked = [(a, q) for a in material.articles[:CALIBRATION_ARTICLES] for q in a.questions]
    found: dict[int, list[tuple[float, float]]] = {SUPPORTED: [], CONTRADICTED: []}
    for article, question in rng.sample(asked, min(count, len(asked))):
        for wanted in found:
            said, truth = statement(article, question, rng, wanted)
            text = article.passages[question.passage].tokens.cut(0, 300)
            window = lay_out(tokenise(material.tokenizer, [said])[0].ids, [Piece(0, none, text)])
            shares = reader.infer(collate([window])).support[0, 0].float().softmax(0).tolist()
            found[truth].append((shares[SUPPORTED], shares[CONTRADICTED]))
    true, false = (np.array(found[k]) for k in (SUPPORTED, CONTRADICTED))
    supported = float(np.quantile(true[:, 0], 0.1))
    contradicted = float(np.quantile(true[:, 1], 0.95))
    caught = (false[:, 0] < supported).mean(), (false[:, 1] >= contradicted).mean()
    print("of false statements not supported: {:.3f}, contradicted: {:.3f}".format(*caught))
    return {"supported_from": supported, "contradicted_from": contradicted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the training folder")
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    parser.add_argument("--questions", type=int, default=600)
    args = parser.parse_args()
    torch.set_num_threads(2)
    cache = args.out / "cache"
    eyes = load_eyes(args.out / "eyes.pt")
    reader = Reader()
    reader.load_state_dict(torch.load(args.out / "reader.pt", weights_only=True)["model"])
    reader.eval()
    material = Material(args.data, cache, "val")
    print("loss without and with lean: {:.3f}, {:.3f}".format(
        *lean.fit(reader, eyes, material.pictures)))  # fmt: skip
    calibration = looking_calibration(eyes, load_flags(args.data), args.data, cache)
    calibration |= text_calibration(eyes, material, args.data, cache)
    calibration |= reading_calibration(reader, eyes, material, args.questions)
    calibration |= support_calibration(reader, material, args.questions)
    print(calibration)
    weights.write(args.weights, eyes, reader, calibration)


if __name__ == "__main__":
    main()
