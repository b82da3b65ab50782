"""Texts to token windows and back: whole items per window, every token knows its characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rag_owl.model.nano.reader import SIMILARITIES, Rows

CLS, SEP = 101, 102
BAR = 1064  # "|", between the cells of a table
MAX_QUESTION = 96  # tokens; the rest of a longer question is not read
MAX_PREFIX = 48  # tokens of title and heading before an item's text
OVERLAP = 48  # tokens that two pieces of one long item share


@dataclass(frozen=True)
class Tokens:
    """A tokenised text: ids and the characters (of the text as given) each stands for."""

    ids: NDArray[np.int32]  # (n,)
    spans: NDArray[np.int32]  # (n, 2) start, end

    def cut(self, start: int, end: int) -> Tokens:
        return Tokens(self.ids[start:end], self.spans[start:end])


EMPTY = Tokens(np.zeros(0, np.int32), np.zeros((0, 2), np.int32))


def tokenise(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """With a tokenizer of `minilm.tokenizer()`; spans count characters of the text as given."""
    out = []
    for coded in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        ids = np.array(coded.ids, dtype=np.int32).reshape(-1)
        spans = np.array(coded.offsets, dtype=np.int32).reshape(-1, 2)
        out.append(Tokens(ids, spans))
    return out


@dataclass(frozen=True)
class Piece:
    """One item, or a part of a long one, in a window."""

    item: int  # index given by the caller
    prefix: NDArray[np.int32]
    text: Tokens

    @property
    def length(self) -> int:
        return 1 + len(self.prefix) + len(self.text.ids)  # with its [SEP]


@dataclass
class Window:
    ids: list[int]
    question_end: int  # token index of the [SEP] after the question, which is the first item's
    pieces: list[Piece]
    separators: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # first text token per piece

    def piece_range(self, i: int) -> tuple[int, int]:
        """Token indices [start, end) of piece `i`, its [SEP] and prefix included."""
        return self.separators[i], self.separators[i] + self.pieces[i].length


def lay_out(question: NDArray[np.int32], pieces: Sequence[Piece]) -> Window:
    ids = [CLS, *question[:MAX_QUESTION].tolist()]
    window = Window(ids, len(ids), list(pieces))
    for piece in pieces:
        window.separators.append(len(ids))
        ids.append(SEP)
        ids.extend(piece.prefix.tolist())
        window.starts.append(len(ids))
        ids.extend(piece.text.ids.tolist())
    ids.append(SEP)
    return window


def pack(
    question: NDArray[np.int32],
    items: Sequence[tuple[NDArray[np.int32], Tokens]],
    limit: int = 512,
    together: int = 512,
) -> list[Window]:
    """Windows of whole items in order; an item longer than a window becomes overlapping pieces.

    items: (prefix ids, text) each. Every window has the question and at most `limit` tokens, or
    `together` where several items share it.
    """
    room = limit - 2 - min(len(question), MAX_QUESTION)
    windows: list[list[Piece]] = [[]]
    used = 0
    for index, (prefix, text) in enumerate(items):
        prefix = prefix[:MAX_PREFIX]
        stride = room - 1 - len(prefix)
        at = 0
        while True:
            piece = Piece(index, prefix, text.cut(at, at + stride))
            if used + piece.length > room - (limit - together) and windows[-1]:
                windows.append([])
                used = 0
            windows[-1].append(piece)
            used += piece.length
            if at + stride >= len(text.ids):
                break
            at += stride - OVERLAP
    return [lay_out(question, pieces) for pieces in windows if pieces]


def collate(windows: Sequence[Window]) -> Rows:
    """Windows -> one padded batch without pictures."""
    B, T = len(windows), max(len(w.ids) for w in windows)
    I = max(len(w.pieces) for w in windows)  # noqa: E741
    ids = torch.zeros(B, T, dtype=torch.long)
    types = torch.zeros(B, T, dtype=torch.long)
    mask = torch.zeros(B, T, dtype=torch.bool)
    pointable = torch.zeros(B, T, dtype=torch.bool)
    separators = torch.full((B, I), -1, dtype=torch.long)
    for b, window in enumerate(windows):
        n = len(window.ids)
        ids[b, :n] = torch.tensor(window.ids)
        mask[b, :n] = True
        types[b, window.question_end : n] = 1
        pointable[b, 0] = True
        for i, piece in enumerate(window.pieces):
            separators[b, i] = window.separators[i]
            pointable[b, window.starts[i] : window.starts[i] + len(piece.text.ids)] = True
    return Rows(ids, types, mask, pointable, separators)


def spread(windows: Sequence[Window], values: Sequence[Sequence[Sequence[float]]]) -> torch.Tensor:
    """Per window and piece a row of SIMILARITIES -> (B, T, SIMILARITIES) on the piece's tokens."""
    T = max(len(w.ids) for w in windows)
    out = torch.zeros(len(windows), T, SIMILARITIES)
    for b, window in enumerate(windows):
        for i in range(len(window.pieces)):
            start, end = window.piece_range(i)
            out[b, start:end] = torch.tensor(values[b][i], dtype=torch.float32)
    return out
