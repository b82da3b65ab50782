"""Calibrate and write the bundled files: python -m rag_owl.model.train.nano.export …

Thresholds are set on the first 20 of the 40 validation articles, on flags under the training's
warps (the benchmark's are others), and on tiny-imagenet's validation pictures; the benchmark
measures on the other 20 articles, other warps, and classes never trained on.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rag_owl.model.nano import minilm, weights
from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.pointing import spans
from rag_owl.model.nano.reader import Reader
from rag_owl.model.nano.window import Piece, collate, lay_out, tokenise
from rag_owl.model.train.nano import passages, texts, warp
from rag_owl.model.train.nano.eyes import embed, precision_at_5
from rag_owl.model.train.nano.passages import Episode
from rag_owl.model.train.nano.pictures import Flags, load, load_flags
from rag_owl.model.train.nano.reader import Material, load_eyes, windows_of, with_pictures
from rag_owl.model.train.nano.statements import CONTRADICTED, SUPPORTED, statement

CALIBRATION_ARTICLES = 20


def logistic(scores: Sequence[float], truths: Sequence[bool]) -> tuple[float, float]:
    """Slope and offset of P(true | score) by Newton's method on the log loss (Platt scaling)."""
    x = np.stack([np.asarray(scores), np.ones(len(scores))], 1)
    y = np.asarray(truths, dtype=float)
    w = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-4 * np.eye(2)
        w += np.linalg.solve(hessian, x.T @ (y - p) - 1e-4 * w)
    return float(w[0]), float(w[1])


@torch.inference_mode()
def scores_of(
    reader: Reader, eyes: Eyes, material: Material, episodes: list[Episode]
) -> tuple[list[float], list[bool]]:
    """Score of the best span, and whether it is (one of) the right ones, to a token."""
    scores, right = [], []
    for at in range(0, len(episodes), 16):
        batch = episodes[at : at + 16]
        windows = windows_of(material.tokenizer, batch)
        rows = collate(windows)
        if batch[0].user_picture is not None:
            g = torch.Generator().manual_seed(at)
            features, *halves = eyes(material.pictures.render(batch, g))
            hide = [False] * len(batch)
            with_pictures(rows, windows, batch, features, torch.cat(halves, 1), hide)
        reading = reader(rows)
        for b, (window, episode) in enumerate(zip(windows, batch, strict=True)):
            one = type(reading)(
                reading.start[b : b + 1], reading.end[b : b + 1],
                reading.item[b : b + 1], reading.support[b : b + 1],
            )  # fmt: skip
            found = spans(one, [window])
            if found:
                scores.append(found[0].score)
                right.append(_overlaps(found[0].item, found[0].start, found[0].end, episode))
    return scores, right


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
    """A probability from the score, for questions without and with a picture, and the threshold
    that keeps 90 % of the answerable questions without one."""
    rng = random.Random(0)
    none = np.zeros(0, np.int32)
    articles = [a for a in material.articles[:CALIBRATION_ARTICLES] if len(a.passages) > 4]
    asked = [(a, q) for a in articles for q in a.questions]
    plain = [
        passages.squad_episode(a, q, rng, none, passages=4, answerable=i % 2 == 0)
        for i, (a, q) in enumerate(rng.sample(asked, min(count, len(asked))))
    ]
    scores, right = scores_of(reader, eyes, material, plain)
    slope, offset = logistic(scores, right)
    answerable = [s for s, e in zip(scores, plain, strict=True) if e.answers]
    out = {"plain_slope": slope, "plain_offset": offset}
    out["threshold"] = 1 / (1 + math.exp(-(slope * float(np.quantile(answerable, 0.1)) + offset)))
    pictured = [
        material.pictures.flag(rng) if rng.random() < 0.5 else material.pictures.thing(rng)
        for _ in range(count // 2)
    ]
    slope, offset = logistic(*scores_of(reader, eyes, material, pictured))
    return {**out, "pictured_slope": slope, "pictured_offset": offset}


def looking_calibration(eyes: Eyes, flags: Flags, data: Path, cache: Path) -> dict[str, float]:
    """The instance half's share of the cosine, and from which cosine on two flags are the same."""
    val = load(data, cache, "val")
    halves = embed(eyes, val.pixels)
    eyes.eval()
    labels = torch.from_numpy(val.labels)
    groups = torch.from_numpy(flags.groups)
    stored = torch.from_numpy(flags.pixels).permute(0, 3, 1, 2).float() / 255
    g = torch.Generator().manual_seed(11)
    aspects = torch.from_numpy(flags.aspects)
    views = []
    for _ in range(2):
        ground = torch.rand(len(stored), 3, 1, 1, generator=g).expand(-1, -1, 64, 64)
        photo = warp.photograph(stored, aspects, ground, 64, g)
        views.append(embed(eyes, (photo.permute(0, 2, 3, 1) * 255).byte().numpy()))
        eyes.eval()
    best = (-1.0, 0.5, 0.5)
    for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):

        def mix(pair: tuple[Tensor, Tensor], share: float = share) -> Tensor:
            return torch.cat([pair[0] * share**0.5, pair[1] * (1 - share) ** 0.5], 1)

        cosines = mix(views[0]) @ mix(views[1]).T
        first = float((groups[cosines.argmax(1)] == groups).float().mean())
        near = precision_at_5(mix(halves), labels, rounds=500)
        same = cosines[groups[:, None] == groups[None]]
        other = cosines[groups[:, None] != groups[None]]
        # as many pairs of each kind count: half of the questions are about the same flag
        steps = torch.linspace(-0.2, 1, 241)
        share_right = [(float((same >= t).float().mean()) + float((other < t).float().mean())) / 2
                       for t in steps]  # fmt: skip
        threshold = float(steps[int(np.argmax(share_right))])
        print(f"share {share}: flags {first:.3f}, tiny-imagenet p@5 {near:.3f}, "
              f"same or not {max(share_right):.3f} at {threshold:.3f}")  # fmt: skip
        best = max(best, (first + near, share, threshold))
    return {"instance_share": best[1], "same": best[2]}


def text_calibration(eyes: Eyes, material: Material, data: Path, cache: Path) -> dict[str, float]:
    """The cosine of a text and a picture's text half that 99 of 100 unrelated pairs stay below:
    questions of the calibration articles and tiny-imagenet's validation pictures."""
    things = load(data, cache, "val")
    text_half = embed(eyes, things.pixels)[1]
    eyes.eval()
    asked = [q.question for a in material.articles[:CALIBRATION_ARTICLES] for q in a.questions]
    questions = minilm.sentence_vectors(random.Random(5).sample(asked, 200))
    unrelated = (text_half @ torch.from_numpy(questions).T).flatten().numpy()
    names = texts.class_vectors(things.names)
    own = (text_half * names[torch.from_numpy(things.labels)]).sum(1).numpy()
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
    calibration = looking_calibration(eyes, load_flags(args.data), args.data, cache)
    calibration |= text_calibration(eyes, material, args.data, cache)
    calibration |= reading_calibration(reader, eyes, material, args.questions)
    calibration |= support_calibration(reader, material, args.questions)
    print(calibration)
    weights.write(args.weights, eyes, reader, calibration)


if __name__ == "__main__":
    main()
