"""What pictures are called: MiniLM vectors of class names and of flag descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rag_owl.model.nano import minilm


def sentence_vectors(sentences: Sequence[str]) -> Tensor:
    return torch.from_numpy(minilm.sentence_vectors(sentences))


def class_vectors(names: Sequence[str]) -> Tensor:
    """(classes, 384): the mean over a class's synonyms, alone and as "a photo of a …"."""
    rows = []
    for name in names:
        plain = name.removeprefix("caltech:").replace("Faces easy", "face").replace("Faces", "face")
        synonyms = [s.strip() for s in plain.split(",")][:3]
        rows.append([t for s in synonyms for t in (s, f"a photo of a {s}")])
    flat = sentence_vectors([t for row in rows for t in row])
    pieces = torch.split(flat, [len(row) for row in rows])
    return F.normalize(torch.stack([p.mean(0) for p in pieces]), dim=-1)


def flag_description(country: dict[str, Any]) -> str:
    """The fact book's words on how the flag looks, without what it stands for."""
    text = str(country["flag"]).split("meaning:")[0]
    return text.removeprefix("description:").strip()


def flag_vectors(countries: Sequence[dict[str, Any]]) -> Tensor:
    """(flags, kinds, 384); kinds: its name, its first clause, its whole description."""
    kinds = []
    for country in countries:
        look = flag_description(country) or f"flag of {country['name']}"
        kinds += [f"the flag of {country['name']}", f"a flag: {look.split(';')[0]}", look]
    return sentence_vectors(kinds).view(len(countries), 3, -1)
