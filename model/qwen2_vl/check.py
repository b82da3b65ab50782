"""Comparing Qwen2-VL with what is expected of it.

`inputs.safetensors`, named as transformers names them: `input_ids` (B, T), `attention_mask` where
rows are padded, `pixel_values` and `image_grid_thw`, `pixel_values_videos` and `video_grid_thw`.
`expected.safetensors`: `logits` (B, T, V), and `greedy_row_i`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.check import Comparison
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.qwen2_vl.model import Qwen2VL
from rag_owl.model.spliced.generate import stream_embeds


class _Visuals:
    """Pictures or videos of a case, handed out in order."""

    def __init__(self, model: Qwen2VL, pixels: Tensor | None, grids: Tensor | None) -> None:
        self.model = model
        self.grids = grids if grids is not None else torch.zeros(0, 3, dtype=torch.long)
        self.pixels = pixels if pixels is not None else torch.zeros(0, model.patch_width)
        self.used = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """-> features (n, D), grid (3,)."""
        before = int(self.grids[: self.used].prod(dim=1).sum())
        grid = self.grids[self.used]
        self.used += 1
        patches = self.pixels[before : before + int(grid.prod())]
        return self.model.encode_patches(patches, grid[None]), grid


@torch.no_grad()
def compare(model: Qwen2VL, folder: Path, tolerance: float) -> list[Comparison]:
    """Every expected tensor. Raises InvalidCheckpoint: a case that cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        inputs = load_file(folder / "inputs.safetensors")
        expected = load_file(folder / "expected.safetensors")
        rows = inputs["input_ids"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InvalidCheckpoint(f"{folder}: the case cannot be read ({error}).") from None
    images = _Visuals(model, inputs.get("pixel_values"), inputs.get("image_grid_thw"))
    videos = _Visuals(model, inputs.get("pixel_values_videos"), inputs.get("video_grid_thw"))
    mask = inputs.get("attention_mask", torch.ones_like(rows)).bool()
    found = []
    differences = []
    for row, ids in enumerate(rows):
        ids = ids[mask[row]]
        try:
            embeds, positions = _embedded(model, ids, images, videos)
        except IndexError:
            raise InvalidCheckpoint(f"{folder}: more places for pictures than grids.") from None
        if "logits" in expected:
            out = model.language_model(inputs_embeds=embeds, position_ids=positions)
            want = expected["logits"][row][mask[row]]
            differences.append(_difference(out.logits[0], want))
        if (name := f"greedy_row_{row}") in expected:
            wanted = expected[name].tolist()
            sampling = Sampling(max_new_tokens=len(wanted))
            got = list(stream_embeds(model, ids.tolist(), embeds, positions, sampling))
            got += [0] * (len(wanted) - len(got))
            wrong = sum(a != b for a, b in zip(got, wanted, strict=True))
            found.append(Comparison(name, wrong, wrong == 0))
    if differences:
        largest = max(differences)
        found.insert(0, Comparison("logits", largest, largest <= tolerance))
    unknown = [name for name in expected if name != "logits" and not name.startswith("greedy_row_")]
    return found + [Comparison(name, float("inf"), False) for name in sorted(unknown)]


def _embedded(
    model: Qwen2VL, ids: Tensor, images: _Visuals, videos: _Visuals
) -> tuple[Tensor, Tensor | None]:
    config = model.config
    features: list[Tensor] = []
    grids: dict[int, list[Tensor]] = {config.image_token_id: [], config.video_token_id: []}
    begins = (ids[:-1] == config.vision_start_token_id).nonzero().flatten()
    for token in ids[begins + 1].tolist():
        if token in grids:
            seen, grid = (images if token == config.image_token_id else videos).next()
            features.append(seen)
            grids[token].append(grid)
    stacked = (torch.stack(g) if g else torch.zeros(0, 3, dtype=torch.long) for g in grids.values())
    first, second = stacked
    return model.embedded(ids[None].to(model.device), features, first, second)


def _difference(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    return float((got.float().cpu() - want.float()).abs().max())
