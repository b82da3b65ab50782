"""What the vision tower computed of pictures, kept: the visual memory.

A picture's features depend on the picture, the vision tower, the projector and the preprocessing,
and on nothing else. So they can be computed once, stored, and used in any prompt. Every memory
carries the identity of what made it; a model refuses a memory that is not its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rag_owl.errors import CorruptData, InvalidInput

FORMAT = "rag_owl/visual-memory/1"
Storage: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class MemoryIdentity:
    """What features depend on beside the picture."""

    model: str  # fingerprint of the vision tower and the projector
    preprocessing: str


def fingerprint(made_by: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """16 hexadecimal digits over `made_by` and a sample of every tensor, with its name and shape.

    Taken at bfloat16, so that a checkpoint loaded in another dtype is the same model.
    """
    digest = hashlib.sha256(made_by.encode())
    for name, weight in weights:
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 512)].to(torch.bfloat16).float()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class VisualMemory:
    """Features of N pictures with P patches each.

    `features` is (N, P, D), floating or int8; with int8, `scales` (N, P, 1) makes one patch's
    numbers from it. `ids` name the pictures; equal ids mean equal features. `sizes`, where the
    model's pictures differ in size, are the pictures' width and height in pixels.
    """

    features: Tensor
    identity: MemoryIdentity
    ids: tuple[str, ...]
    scales: Tensor | None = None
    sizes: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.features.dim() != 3 or len(self.ids) != self.features.shape[0]:
            raise InvalidInput(
                f"a visual memory needs features (N, P, D) and N ids, not "
                f"{tuple(self.features.shape)} and {len(self.ids)}."
            )
        if (self.features.dtype == torch.int8) != (self.scales is not None):
            raise InvalidInput("int8 features need scales, and only they.")
        if self.sizes is not None and len(self.sizes) != len(self.ids):
            raise InvalidInput(f"{len(self.sizes)} sizes for {len(self.ids)} pictures.")

    def __len__(self) -> int:
        return self.features.shape[0]

    def __getitem__(self, index: slice | Sequence[int]) -> VisualMemory:
        """Some of the pictures, in the order asked for."""
        picks = list(range(len(self))[index]) if isinstance(index, slice) else list(index)
        at: slice | list[int] = index if isinstance(index, slice) else picks
        return VisualMemory(
            self.features[at],
            self.identity,
            tuple(self.ids[i] for i in picks),
            None if self.scales is None else self.scales[at],
            None if self.sizes is None else tuple(self.sizes[i] for i in picks),
        )

    def by_place(self, starts: Sequence[int]) -> tuple[VisualMemory, list[int]]:
        """The pictures and their places in the order of the places."""
        order = sorted(range(len(starts)), key=lambda i: starts[i])
        if order == list(range(len(starts))):
            return self, list(starts)
        return self[order], [starts[i] for i in order]

    @property
    def patches(self) -> int:
        return self.features.shape[1]

    @property
    def nbytes(self) -> int:
        scales = 0 if self.scales is None else self.scales.nbytes
        return self.features.nbytes + scales

    def dense(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The features as numbers of a dtype on a device, (N, P, D)."""
        if self.scales is None:
            return self.features.to(device=device, dtype=dtype, non_blocking=True)
        wide = self.features.to(device=device, non_blocking=True).float()
        return (wide * self.scales.to(device=device)).to(dtype)

    def to_storage(self, storage: Storage) -> VisualMemory:
        """As it would come back from a file of that kind.

        int8 is symmetric with one scale per patch: the largest |number| becomes 127.
        """
        if storage == "int8":
            if self.scales is not None:
                return self
            wide = self.features.detach().float()
            scales = wide.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
            small = (wide / scales).round().clamp(-127, 127).to(torch.int8)
            return VisualMemory(small, self.identity, self._renamed("int8"), scales, self.sizes)
        dtype = {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }.get(storage)
        if dtype is None:
            raise InvalidInput(
                f"unknown storage {storage!r}; known: float32, bfloat16, float16, int8."
            )
        if self.scales is None and self.features.dtype == dtype:
            return self
        dense = self.dense(self.features.device, dtype).detach()
        return VisualMemory(dense, self.identity, self._renamed(storage), sizes=self.sizes)

    def _renamed(self, storage: str) -> tuple[str, ...]:
        """Rounded features are other features: they must not meet the exact ones in a cache."""
        return tuple(f"{name}:{storage}" for name in self.ids)

    @classmethod
    def cat(cls, pieces: Sequence[VisualMemory]) -> VisualMemory:
        """One memory of all the pieces' pictures, in order.

        Pieces stored differently come together as float32. Raises InvalidInput: no piece, or
        pieces of different models or preprocessing.
        """
        if not pieces:
            raise InvalidInput("nothing to join; without pictures pass memory=None.")
        first = pieces[0]
        if len(pieces) == 1:
            return first
        for piece in pieces:
            if piece.identity != first.identity or piece.patches != first.patches:
                raise InvalidInput(
                    "cannot join visual memories of different models or preprocessing: "
                    f"{first.identity} and {piece.identity}."
                )
        ids = tuple(name for piece in pieces for name in piece.ids)
        sizes = None
        if all(piece.sizes is not None for piece in pieces):
            sizes = tuple(size for piece in pieces for size in piece.sizes or ())
        if all(piece.scales is not None for piece in pieces):
            scales = torch.cat([p.scales for p in pieces if p.scales is not None])
            features = torch.cat([p.features for p in pieces])
            return cls(features, first.identity, ids, scales, sizes)
        dtypes = {p.features.dtype if p.scales is None else torch.float32 for p in pieces}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        device = first.features.device
        features = torch.cat([p.dense(device, dtype) for p in pieces])
        return cls(features, first.identity, ids, sizes=sizes)

    # --- files --------------------------------------------------------------------------------

    def save(self, path: str | Path, storage: Storage = "bfloat16") -> Path:
        """Write one safetensors file with its manifest; the name appears only when it is whole."""
        from safetensors.torch import save_file

        stored = self.to_storage(storage)
        tensors = {"features": stored.features.detach().cpu().contiguous()}
        if stored.scales is not None:
            tensors["scales"] = stored.scales.detach().cpu().contiguous()
        manifest = {
            "format": FORMAT,
            "model": self.identity.model,
            "preprocessing": self.identity.preprocessing,
            "ids": json.dumps(stored.ids),
            "sizes": json.dumps(stored.sizes),
        }
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            save_file(tensors, temporary, metadata=manifest)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path, identity: MemoryIdentity | None = None) -> VisualMemory:
        """Read a file of `save`, memory-mapped: pages come from the disk when they are used.

        Raises CorruptData: damaged, or no file of ours. Raises InvalidInput: `identity` is given
        and the features were made by another model or preprocessing.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                manifest = file.metadata() or {}
                names = set(file.keys())
                if manifest.get("format") != FORMAT or "features" not in names:
                    raise CorruptData(f"{path} is no file of visual features of this version.")
                features = file.get_tensor("features")
                scales = file.get_tensor("scales") if "scales" in names else None
                ids = tuple(json.loads(manifest["ids"]))
                made_by = MemoryIdentity(manifest["model"], manifest["preprocessing"])
                sizes = json.loads(manifest.get("sizes", "null"))
                if sizes is not None:
                    sizes = tuple((int(width), int(height)) for width, height in sizes)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise CorruptData(f"{path}: visual features cannot be read ({error}).") from None
        if identity is not None:
            check_identity(made_by, identity, str(path))
        try:
            return cls(features, made_by, ids, scales, sizes)
        except InvalidInput as error:
            raise CorruptData(f"{path}: {error}") from None


def check_identity(made_by: MemoryIdentity, wanted: MemoryIdentity, what: str) -> None:
    """Raises InvalidInput unless features of `made_by` can stand for features of `wanted`."""
    if made_by != wanted:
        part = "model" if made_by.model != wanted.model else "preprocessing"
        raise InvalidInput(
            f"{what} holds features of another {part} ({getattr(made_by, part)}, this is "
            f"{getattr(wanted, part)}); remember the pictures again with this model."
        )


def new_ids(count: int) -> tuple[str, ...]:
    """Names for pictures that the caller did not name: never the same twice."""
    stem = uuid.uuid4().hex
    return tuple(f"{stem}-{i}" for i in range(count))
