"""Batched distortions for training, and flags that no country has.

The benchmark's warps are written apart from these, on full-size pictures with Pillow, so that
what is measured is not what was trained on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# B pictures, S source side, T target side; pictures are (B, 3, S, S) from 0 to 1


def _uniform(n: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return torch.rand(n, generator=g) * (high - low) + low


def photograph(
    flags: Tensor, aspects: Tensor, backgrounds: Tensor, side: int, g: torch.Generator
) -> Tensor:
    """Flags (B, 3, S, S) with their width over height (B,), as badly taken photographs.

    Rotation, perspective, crop or margin with a background (B, 3, T, T), uneven light, colour
    cast, blur, noise -> (B, 3, T, T). A fifth stays nearly clean, as an index would hold it.
    """
    n = len(flags)
    hard = (torch.rand(n, generator=g) > 0.2).float()
    angle = _uniform(n, -0.40, 0.40, g) * hard  # radians: a little over 20 degrees
    photo_aspect = aspects * torch.exp(_uniform(n, -0.15, 0.15, g) * hard)
    zoom = torch.exp(_uniform(n, math.log(0.68), math.log(1.55), g) * hard)
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    u = xs[None] * (photo_aspect * zoom)[:, None, None]  # (B, T, T), in units of half a height
    v = ys[None] * zoom[:, None, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    u, v = cos * u - sin * v, sin * u + cos * v
    u = u / aspects[:, None, None]
    tilt = _uniform(2 * n, -0.22, 0.22, g).view(2, n, 1, 1) * hard[None, :, None, None]
    depth = 1 + tilt[0] * u + tilt[1] * v
    room = (1 - zoom).clamp(min=-0.3).abs()
    shift = _uniform(2 * n, -1, 1, g).view(2, n) * room * hard
    u = u / depth + shift[0][:, None, None]
    v = v / depth + shift[1][:, None, None]
    out = F.grid_sample(flags, torch.stack([u, v], -1), align_corners=False, padding_mode="border")
    edge = flags.shape[-1] / 2
    inside = ((1 - torch.maximum(u.abs(), v.abs())) * edge + 0.5).clamp(0, 1)[:, None]
    out = out * inside + backgrounds * (1 - inside)
    light = 1 + 0.25 * hard[:, None, None] * (
        xs[None] * _uniform(n, -1, 1, g)[:, None, None]
        + ys[None] * _uniform(n, -1, 1, g)[:, None, None]
    )
    return spoil(out * light[:, None], g, hard)


def spoil(x: Tensor, g: torch.Generator, hard: Tensor) -> Tensor:
    """Colour cast, contrast, brightness, blur and noise over (B, 3, T, T); `hard` (B,) scales."""
    n = len(x)
    h = hard[:, None, None, None]
    gain = torch.exp(_uniform(3 * n, -0.28, 0.28, g).view(n, 3, 1, 1) * h)
    level = torch.exp(_uniform(n, -0.3, 0.3, g)[:, None, None, None] * h)
    grey = x.mean(1, keepdim=True)
    saturation = 1 + _uniform(n, -0.45, 0.3, g)[:, None, None, None] * h
    x = grey + (x - grey) * saturation
    offset = _uniform(n, -0.08, 0.08, g)[:, None, None, None] * h
    x = (x * gain * level + offset).clamp(0, 1)
    sigma = (_uniform(n, 0.0, 1.3, g) * hard).clamp(min=0.05)
    taps = torch.arange(-3, 4).float()
    kernel = torch.exp(-0.5 * (taps[None] / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)  # (B, 7)
    y = x.reshape(1, 3 * n, *x.shape[2:])
    weights = kernel.repeat_interleave(3, 0)[:, None]  # (3 B, 1, 7)
    y = F.conv2d(F.pad(y, (3, 3, 3, 3), mode="replicate"), weights[:, :, None], groups=3 * n)
    y = F.conv2d(y, weights[..., None], groups=3 * n)
    x = y.view_as(x)
    noise = torch.randn(x.shape, generator=g) * 0.03
    return (x + noise * h).clamp(0, 1)


def cut_mix(x: Tensor, g: torch.Generator, mixed: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """Of the pictures (B, 3, S, S) a share get a box of another one (CutMix, Yun et al. 2019).

    -> pictures, the row (B,) that each one's box is of, and the share (B,) that is its own.
    """
    n, side = len(x), x.shape[-1]
    other = torch.randperm(n, generator=g)
    width = torch.rand(n, generator=g).sqrt() * (torch.rand(n, generator=g) < mixed)
    centre = torch.rand(2, n, generator=g)
    place = (torch.arange(side) + 0.5) / side
    near = (place[None, None] - centre[..., None]).abs() < width[None, :, None] / 2  # (2, B, S)
    box = near[0][:, :, None] & near[1][:, None, :]
    own = 1 - box.float().mean((1, 2))
    return torch.where(box[:, None], x[other], x), other, own


def crop_and_flip(
    x: Tensor, side: int, g: torch.Generator, least: float = 0.3, turn: float = 0.0
) -> Tensor:
    """Natural pictures (B, 3, S, S): a random crop of `least` to 1 of the area, mirrored, light
    jitter. With `turn`, up to which angle they are turned (radians), also slanted and with colours
    from none to strong."""
    n = len(x)
    area = _uniform(n, least, 1.0, g)
    ratio = torch.exp(_uniform(n, -0.25, 0.25, g))
    w = (area * ratio).sqrt().clamp(max=1)
    h = (area / ratio).sqrt().clamp(max=1)
    flip = (torch.rand(n, generator=g) < 0.5).float() * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = w * flip, h
    if turn:
        angle, slant = _uniform(n, -turn, turn, g), _uniform(n, -turn, turn, g)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack([cos, slant * cos - sin, sin, slant * sin + cos], 1).view(n, 2, 2)
        theta[:, :, :2] = turned @ theta[:, :, :2]
    theta[:, 0, 2] = _uniform(n, -1, 1, g) * (1 - w)
    theta[:, 1, 2] = _uniform(n, -1, 1, g) * (1 - h)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")
    gain = torch.exp(_uniform(3 * n, -0.08, 0.08, g).view(n, 3, 1, 1))
    level = torch.exp(_uniform(n, -0.25, 0.25, g)).view(n, 1, 1, 1)
    if turn:
        grey = x.mean(1, keepdim=True)
        saturation = _uniform(n, -0.15, 1.4, g).clamp(min=0).view(n, 1, 1, 1)
        x = grey + (x - grey) * saturation
    return (x * gain * level).clamp(0, 1)


def invent(n: int, side: int, g: torch.Generator) -> Tensor:
    """`n` flags of no country: bands, crosses, saltires, triangles, cantons, discs, stars.

    They teach that layout, colours and emblems make a flag, beyond the 238 that exist.
    """
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    out = torch.empty(n, 3, side, side)
    for i in range(n):
        out[i] = _invent_one(xs, ys, g)
    return out


def _invent_one(xs: Tensor, ys: Tensor, g: torch.Generator) -> Tensor:
    def r(low: float = 0.0, high: float = 1.0) -> float:
        return float(_uniform(1, low, high, g))

    palette = torch.tensor(
        [[0.8, 0.1, 0.15], [1, 1, 1], [0, 0.2, 0.55], [0, 0.5, 0.25], [1, 0.82, 0.05],
         [0.05, 0.05, 0.05], [0.4, 0.7, 0.9], [1, 0.5, 0.1], [0.5, 0.1, 0.2]]
    )  # fmt: skip
    order = torch.randperm(len(palette), generator=g)
    colours = (palette[order] + 0.12 * (torch.rand(9, 3, generator=g) - 0.5)).clamp(0, 1)

    def paint(base: Tensor, mask: Tensor, colour: int) -> Tensor:
        return torch.where(mask[None], colours[colour][:, None, None], base)

    flag = colours[0][:, None, None].expand(3, *xs.shape).clone()
    along = xs if r() < 0.5 else ys
    kind = int(r(0, 5))
    if kind <= 2:
        bands = 2 + int(r(0, 4))
        cuts = torch.linspace(-1, 1, bands + 1) + 0.1 * (torch.rand(bands + 1, generator=g) - 0.5)
        for b in range(1, bands):
            flag = paint(flag, along > cuts[b], b % (2 if r() < 0.3 else 5))
    elif kind == 3:
        centre, width = r(-0.4, 0.1), r(0.08, 0.25)
        for colour, scale in ((1, 1.0), (2, 0.5)):
            cross = ((xs - centre).abs() < width * scale) | (ys.abs() < 1.5 * width * scale)
            flag = paint(flag, cross, colour)
    else:
        saltire = ((xs - ys).abs() < r(0.1, 0.4)) | ((xs + ys).abs() < r(0.1, 0.4))
        flag = paint(flag, saltire, 1)
    if r() < 0.25:
        flag = paint(flag, (xs + 1) < r(0.5, 1.2) * (1 - ys.abs()), 5)
    if r() < 0.25:
        flag = paint(flag, (xs < r(-0.4, 0.1)) & (ys < r(-0.3, 0.2)), 6)
    for _ in range(int(r(0, 3))):
        cx, cy, size = r(-0.7, 0.7), r(-0.6, 0.6), r(0.1, 0.4)
        dx, dy = (xs - cx) / size, (ys - cy) / (1.5 * size)
        radius, angle = torch.hypot(dx, dy), torch.atan2(dy, dx)
        points = 3 + int(r(0, 6))
        star = 1 if r() < 0.4 else 0.7 + 0.3 * torch.cos(points * angle + r(0, 6))
        flag = paint(flag, radius < star, 7 + int(r(0, 2)))
    return flag
