"""Eyes: the vision encoder of owl-nano, a residual network of a few million parameters.

Alphabet: B pictures, S picture side in pixels, G grid side, C feature width, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EyesConfig:
    side: int = 96
    grid: int = 8
    stem: int = 32
    widths: tuple[int, int, int] = (48, 128, 320)
    feature_width: int = 192
    layout_width: int = 24
    instance_width: int = 128
    text_width: int = 384
    appearance_width: int = 128
    kinds: int = 253

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def embedding_width(self) -> int:
        return self.instance_width + self.text_width + self.appearance_width


class Residual(nn.Module):
    """The basic block of He et al. 2015 (section 4.1), shortcut pooled before projection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(F.avg_pool2d(x, self.stride) if self.stride > 1 else x)
        return F.relu(x + y)


class Eyes(nn.Module):
    """Pictures to patch features and one pooled vector of three parts.

    `instance` says whether two pictures show the same thing; `text` lies in the text space of
    all-MiniLM-L6-v2; `appearance` is what the heads of both are made from, shortened to its
    principal components: of things that were never trained on, the heads drop what tells them
    apart. The layout branch keeps where things are: most flags differ by that alone.
    """

    def __init__(self, config: EyesConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or EyesConfig()
        a, b, d = c.widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, c.stem, 3, 2, 1, bias=False), nn.BatchNorm2d(c.stem), nn.ReLU()
        )
        self.stage1 = nn.Sequential(Residual(c.stem, a, 2), Residual(a, a))
        self.stage2 = nn.Sequential(Residual(a, b, 2), Residual(b, b))
        self.stage3 = nn.Sequential(Residual(b, d, 2), Residual(d, d))
        self.fine = nn.Conv2d(b, c.feature_width, 1)
        self.coarse = nn.Conv2d(d, c.feature_width, 1)
        self.feature_norm = nn.LayerNorm(c.feature_width)
        self.layout = nn.Conv2d(d, c.layout_width, 1)
        pooled = d + c.feature_width + 16 * c.layout_width
        self.pooled_norm = nn.LayerNorm(pooled)
        self.instance_head = nn.Linear(pooled, c.instance_width)
        self.text_head = nn.Linear(pooled, c.text_width)
        # Both are set once the rest is trained.
        self.appearance = nn.Linear(pooled, c.appearance_width, bias=False).requires_grad_(False)
        self.kinds = nn.Linear(c.instance_width, c.kinds, bias=False).requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, S, S) from -1 to 1 -> features (B, G*G, C) in row order, instance (B, D1), text
        (B, D2), appearance (B, D3), each of these of unit length.
        """
        features, pooled = self.look(pixels)
        parts = (self.instance_head, self.text_head, self.appearance)
        instance, text, appearance = (F.normalize(p(pooled).float(), dim=-1) for p in parts)
        return features, instance, text, appearance

    def parts(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """(..., D) -> instance (..., D1), text (..., D2), appearance (..., D3)."""
        c = self.config
        return torch.split(pooled, [c.instance_width, c.text_width, c.appearance_width], dim=-1)

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) from -1 to 1 -> features (B, G*G, C), and what the pooled vector is made
        from."""
        x = self.stage2(self.stage1(self.stem(pixels)))  # (B, b, S/8, S/8)
        y = self.stage3(x)  # (B, d, S/16, S/16)
        # The grid stays as it is at any side: each patch of it costs memory at every question.
        near, far = (F.adaptive_avg_pool2d(z, self.config.grid) for z in (x, y))
        grid = (self.fine(near) + self.coarse(far)).flatten(2).transpose(1, 2)  # (B, G*G, C)
        features = self.feature_norm(grid.float())
        layout = F.adaptive_avg_pool2d(self.layout(y), 4).flatten(1)
        pooled = torch.cat([y.mean((2, 3)), F.gelu(features).mean(1), layout.float()], 1)
        return features, self.pooled_norm(pooled.float())


def to_pixels(picture: Image, side: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """An upright RGB picture squeezed to a square: (side, side, 3), uint8.

    Squeezed, not cropped: a flag's edges carry its meaning.
    """
    from PIL import Image as pillow  # noqa: N813

    small = picture.convert("RGB").resize((side, side), pillow.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 or float (B, S, S, 3) from 0 to 255 -> (B, 3, S, S) from -1 to 1."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
