"""Set what the likeness of pictures adds to the reader's logits, once the eyes are trained."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.reader import Reader, Reading, Rows
from rag_owl.model.nano.window import Window, collate
from rag_owl.model.train.nano.episodes import PictureEpisodes
from rag_owl.model.train.nano.passages import Episode
from rag_owl.model.train.nano.reader import item_loss, pointer_loss, windows_of, with_pictures

Read = tuple[Reading, Rows, list[Window], list[Episode]]
_DECAY = 1e-3


def fit(
    reader: Reader, eyes: Eyes, pictures: PictureEpisodes, batches: int = 60, size: int = 12
) -> tuple[float, float]:
    """The nine weights of `reader.lean` that have the least loss of pointer and items, on flags and
    on things that the eyes did not learn from; the rest of the reader stays as it is. -> the loss
    without any, and with these.

    So what the pooled vectors say is weighed anew without reading being learned anew.
    """
    reader.lean.weight.data.zero_()
    read = [_read(reader, eyes, pictures, number, size) for number in range(batches)]
    weight = reader.lean.weight.requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        total = torch.zeros(())
        for reading, rows, windows, episodes in read:
            leaned = reader.leaned(reading, rows)
            pointer = pointer_loss(leaned.start, leaned.end, windows, episodes)
            total = total + (pointer + item_loss(leaned.item, rows, episodes)) / len(read)
        return total

    def step() -> Tensor:
        optimizer.zero_grad()
        total = loss() + _DECAY * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    before = optimizer.step(step)  # type: ignore[no-untyped-call]
    weight.requires_grad_(False)
    return before.item(), loss().item()


@torch.no_grad()
def _read(reader: Reader, eyes: Eyes, pictures: PictureEpisodes, number: int, size: int) -> Read:
    rng, g = random.Random(number), torch.Generator().manual_seed(number)
    draw = pictures.thing if number % 2 else pictures.flag
    episodes = [draw(rng) for _ in range(size)]
    windows = windows_of(pictures.tokenizer, episodes)
    rows = collate(windows)
    pixels = pictures.render(episodes, g)
    features, *parts = eyes(pixels.contiguous(memory_format=torch.channels_last))
    with_pictures(rows, windows, episodes, features, torch.cat(parts, 1), [False] * size, eyes)
    reading = reader(rows)
    rows.sight = None  # large, and read already
    return reading, rows, windows, episodes
