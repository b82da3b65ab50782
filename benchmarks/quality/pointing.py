"""Do heatmaps point at the thing? Synthetic scenes: a flag or a thing is pasted at a random place
of another picture; the user shows a photograph of it and asks for its code.

    python -m benchmarks.quality.pointing --data DATA --cache FOLDER [--scenes 300] [--pictures DIR]

The pointing game (Zhang et al. 2016, arXiv 1608.00507): a map is right where its maximum lies in
the box. Beside it a map whose maximum is the centre, a uniform one (its maximum is anywhere: the
box's share of the area), and the mean attention of all heads. IoU is of the cited box. `calibrate`
fits the weights of heads and maps on other scenes, of other pictures.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality.nano_looking import Shelf, real_flags, thing_groups
from benchmarks.quality.scores import interval
from benchmarks.quality.warps import warp
from rag_owl.model.nano.answerer import NanoAnswerer
from rag_owl.types import Box, Context, Question, Retrieved

SIDE = 256  # pixels of a scene
SMALLEST, LARGEST = 0.25, 0.45  # of the thing's width to the scene's
QUESTION = "What is the code of this?"


@dataclass(frozen=True)
class Scene:
    kind: str  # flag, or thing
    context: Context  # the scene is the first source
    box: Box
    picture: Image.Image


def scenes(data: Path, cache: Path, shelf: Shelf, count: int, calibration: bool) -> Iterator[Scene]:
    """calibration: of one half of the validation pictures, else of the other."""
    rng = random.Random(71 if calibration else 72)
    flags, _ = real_flags(data)
    groups, _ = thing_groups(data, cache, "held" if calibration else "val")
    pool = [picture for group in groups for picture in group]
    for number in range(count):
        kind = "thing" if number % 2 else "flag"
        thing = rng.choice(pool) if number % 2 else rng.choice(flags)
        picture = rng.choice(pool).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        width = round(SIDE * rng.uniform(SMALLEST, LARGEST))
        height = min(SIDE - 1, round(width * thing.height / thing.width))
        left, top = rng.randrange(SIDE - width), rng.randrange(SIDE - height)
        small = thing.resize((width, height), Image.Resampling.LANCZOS)
        picture.paste(small, (left, top))
        box = (left / SIDE, top / SIDE, (left + width) / SIDE, (top + height) / SIDE)
        shown = [picture, rng.choice(pool), rng.choice(pool)]
        codes = [f"{rng.choice('ABCDEFGHK')}{rng.randint(100, 9999)}" for _ in shown]
        sources = tuple(
            Retrieved(Shelf.item(str(i), f"Its code is {code}.", shelf.put(p)), 1.0)
            for i, (p, code) in enumerate(zip(shown, codes, strict=True))
        )
        question = Question("benchmark", QUESTION, (shelf.put(warp(thing, rng)),))
        yield Scene(kind, Context(question, sources), box, picture)


def calibrate(data: Path, cache: Path, folder: Path, count: int) -> dict[str, Any]:
    """-> the weight of each head and map: logistic regression of "this patch is on the thing"."""
    from rag_owl.model.nano.regions import names
    from rag_owl.model.train.nano.export import logistic

    shelf = Shelf()
    model = NanoAnswerer.load(shelf.blobs, folder)
    x, y = [], []
    for scene in scenes(data, cache, shelf, count, True):
        stacked = model.maps(scene.context, 0)  # (M, P)
        x.append(stacked.T)
        y.append(inside(scene.box, round(stacked.shape[1] ** 0.5)))
    weights, offset = logistic(np.concatenate(x).astype(float), np.concatenate(y), strength=30.0)
    c = model.reader_config
    return {
        "weights": dict(zip(names(c.hyper_layers, c.heads), weights.tolist(), strict=True)),
        "offset": offset,
        "scenes": count,
    }


def inside(box: Box, side: int) -> NDArray[np.bool_]:
    """Which patches have their middle in the box: (side * side,), row by row."""
    middle = (np.arange(side) + 0.5) / side
    across = (box[0] <= middle) & (middle < box[2])
    down = (box[1] <= middle) & (middle < box[3])
    return np.outer(down, across).ravel()


def hits(heatmap: NDArray[np.floating[Any]], box: Box) -> bool:
    return bool(inside(box, heatmap.shape[0])[int(heatmap.argmax())])


def iou(a: Box, b: Box) -> float:
    def area(box: Box) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    common = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return common / (area(a) + area(b) - common)


def show(path: Path, seen: Sequence[tuple[Scene, NDArray[np.float32], Box]]) -> None:
    """Scenes beside the same under their heatmap, the thing's box in white, the cited in black."""
    from PIL import ImageDraw

    from rag_owl.api.heatmaps import paint

    sheet = Image.new("RGB", (SIDE * 4, SIDE * ((len(seen) + 1) // 2)))
    for i, (scene, own, box) in enumerate(seen):
        laid = Image.open(io.BytesIO(paint(own, scene.picture.size)))
        under = scene.picture.convert("RGBA")
        under.alpha_composite(laid)
        draw = ImageDraw.Draw(under)
        for edge, colour in ((scene.box, "white"), (box, "black")):
            draw.rectangle([round(v * (SIDE - 1)) for v in edge], outline=colour, width=2)
        at = (i % 2) * 2 * SIDE, i // 2 * SIDE
        sheet.paste(scene.picture, at)
        sheet.paste(under.convert("RGB"), (at[0] + SIDE, at[1]))
    sheet.save(path)


def main() -> None:
    from rag_owl.model.nano import weights

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="decoded pictures are kept here")
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--pictures", type=Path, help="write a sheet of the first heatmaps here")
    args = parser.parse_args()
    shelf = Shelf()
    model = NanoAnswerer.load(shelf.blobs, args.weights)
    rows: dict[str, list[tuple[float, ...]]] = {"flag": [], "thing": []}
    seen = []
    for scene in scenes(args.data, args.cache, shelf, args.scenes, False):
        _, own = model.heatmap(scene.context, 0)
        assert own is not None
        plain = model.attention(scene.context, 0)
        box = model.box(own)
        centre = scene.box[0] <= 0.5 < scene.box[2] and scene.box[1] <= 0.5 < scene.box[3]
        area = (scene.box[2] - scene.box[0]) * (scene.box[3] - scene.box[1])
        rows[scene.kind].append(
            (hits(own, scene.box), centre, area, hits(plain, scene.box), iou(box, scene.box))
        )
        if len(seen) < 16:
            seen.append((scene, own, box))
    print("| scenes | heatmap | centre | uniform | all heads alike | IoU of box | points over |")
    print("|---|---|---|---|---|---|---|")
    for kind, values in (("flags", rows["flag"]), ("things", rows["thing"]),
                         ("together", rows["flag"] + rows["thing"])):  # fmt: skip
        own, centre, area, plain, overlap = np.array(values, float).T
        low, high = interval(own.tolist())
        over = 100 * (own.mean() - max(centre.mean(), area.mean()))
        print(f"| {len(own)} {kind} | {own.mean():.3f} ({low:.3f} to {high:.3f}) | "
              f"{centre.mean():.3f} | {area.mean():.3f} | {plain.mean():.3f} | "
              f"{overlap.mean():.3f} | {over:+.1f} |")  # fmt: skip
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        show(args.pictures / "heatmaps.png", seen)
        print(f"white: the thing; black: the cited box: {args.pictures / 'heatmaps.png'}")


if __name__ == "__main__":
    main()
