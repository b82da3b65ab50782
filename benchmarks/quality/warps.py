"""A flag as a bad photograph: full-size pictures, Pillow alone, apart from the training's warps."""

from __future__ import annotations

import io
import math
import random

import numpy as np
from PIL import Image, ImageFilter


def warp(flag: Image.Image, rng: random.Random) -> Image.Image:
    """Rotation up to 20 degrees, perspective, crop to 70 % or a background around it, blur,
    colour cast, JPEG at quality 30: all of them on every picture, each by a random amount."""
    width, height = flag.size
    canvas_side = (int(width * 1.5), int(height * 1.5))
    ground = tuple(rng.randrange(256) for _ in range(3))
    canvas = Image.new("RGB", canvas_side, ground)
    _texture(canvas, rng)
    # where the flag's corners go: turned about the middle, each pushed by up to 7 %
    angle = math.radians(rng.uniform(-20, 20))
    corners = []
    for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        x, y = (x + rng.uniform(-0.07, 0.07)) * width, (y + rng.uniform(-0.07, 0.07)) * height
        turned_x = x * math.cos(angle) - y * math.sin(angle)
        turned_y = x * math.sin(angle) + y * math.cos(angle)
        corners.append((canvas_side[0] / 2 + turned_x, canvas_side[1] / 2 + turned_y))
    inverse = _perspective(corners, [(0, 0), (width, 0), (width, height), (0, height)])
    method = Image.Transform.PERSPECTIVE
    bicubic = Image.Resampling.BICUBIC
    turned = flag.convert("RGB").transform(canvas_side, method, inverse, bicubic)
    mask = Image.new("L", flag.size, 255).transform(canvas_side, method, inverse, bicubic)
    canvas.paste(turned, (0, 0), mask)
    # a window of 70 to 130 % of the flag's sides, its middle off by up to what that leaves
    share = rng.uniform(0.7, 1.3)
    room = 0.5 * abs(1 - share)
    middle_x = canvas_side[0] / 2 + rng.uniform(-room, room) * width * 0.7
    middle_y = canvas_side[1] / 2 + rng.uniform(-room, room) * height * 0.7
    half_x, half_y = share * width / 2, share * height / 2
    box = (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
    photo = canvas.crop(tuple(int(v) for v in box))  # type: ignore[arg-type]
    photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    pixels = np.asarray(photo, dtype=np.float32)
    cast = np.array([rng.uniform(0.75, 1.25) for _ in range(3)], dtype=np.float32)
    pixels = np.clip(pixels * cast * rng.uniform(0.8, 1.2), 0, 255)
    return _jpeg(Image.fromarray(pixels.astype(np.uint8)), 30)


def _texture(canvas: Image.Image, rng: random.Random) -> None:
    """A few soft blobs, so that the background is not one colour."""
    for _ in range(rng.randrange(6)):
        colour = tuple(rng.randrange(256) for _ in range(3))
        w, h = (rng.randint(10, side // 2) for side in canvas.size)
        blob = Image.new("L", (w, h), rng.randint(60, 255)).filter(ImageFilter.GaussianBlur(4))
        at = (rng.randrange(canvas.width), rng.randrange(canvas.height))
        canvas.paste(Image.new("RGB", (w, h), colour), at, blob)


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _perspective(
    seen: list[tuple[float, float]], source: list[tuple[float, float]]
) -> tuple[float, ...]:
    """Pillow's eight coefficients that take output points `seen` to input points `source`."""
    rows, right = [], []
    for (x, y), (u, v) in zip(seen, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(right)).tolist())
