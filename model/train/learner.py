"""A local model as something that learns: examples in, the loss of their answers out.

B rows, T ids, t positions after pictures took their places, N pictures, V vocabulary
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rag_owl.errors import InvalidInput
from rag_owl.media import decode_picture
from rag_owl.model.check import family_of
from rag_owl.model.checkpoint import find_folder
from rag_owl.model.evidence_prompt import Sights, lay_out
from rag_owl.model.local_answerer import LocalAnswerer
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.memory import MemoryIdentity, VisualMemory, new_ids
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.prompting import Turn
from rag_owl.model.train.conversation import conversation
from rag_owl.model.train.examples import Example, Pictures

_ANSWER = 64  # tokens of an answer that is measured while training
_NOW = "in training"
ROOM = 2**50  # bytes: a run's own features are not bounded by a service's budget


@dataclass(frozen=True, slots=True)
class Local:
    """A model with what makes prompts for it."""

    family: str
    model: Any  # Owl3 or Spliced
    processor: Any
    tokenizer: Any
    ends: int  # the id that ends an answer


def load_local(name: str | Path, dtype: str | None = None, device: str | None = None) -> Local:
    """A model folder or hub id. Raises ModelNotFound, InvalidCheckpoint, InvalidInput."""
    folder = find_folder(name)
    family = family_of(folder)
    if family == "owl3":
        from rag_owl.model.owl3.model import Owl3
        from rag_owl.model.owl3.processor import Owl3Processor
        from rag_owl.model.owl3.tokenizer import Owl3Tokenizer

        owl3 = Owl3.from_pretrained(folder, dtype=dtype, device_map=device)
        words = Owl3Tokenizer.load(folder)
        return Local(family, owl3, Owl3Processor.of(words, owl3.config), words, words.turn_end)
    from rag_owl.model.pixels import PIXELS
    from rag_owl.model.spliced.families import FAMILIES
    from rag_owl.model.spliced.tokenizer import ModelTokenizer

    if family not in FAMILIES or family == "qwen2_vl":
        raise InvalidInput(f"{folder}: models of the family {family} cannot be trained here")
    facts = FAMILIES[family]
    tokenizer = ModelTokenizer.load(folder)
    model = facts.model().from_pretrained(folder, dtype=dtype, device_map=device)
    processor = facts.processor(model, tokenizer, folder, PIXELS)
    ends = (*getattr(processor, "stop_ids", ()), *model.eos_token_ids)[0]
    return Local(family, model, processor, tokenizer, ends)


def answerer_of(local: Local, pictures: Pictures) -> LocalAnswerer:
    """The same model as it answers, with weights as they are while it learns."""
    sampling = Sampling(max_new_tokens=_ANSWER, stop_ids=None)
    blobs: Any = pictures
    if local.family == "owl3":
        from rag_owl.model.owl3.answerer import Owl3Answerer

        local.model.picture_cache.clear()
        return Owl3Answerer(local.model, local.tokenizer, blobs, name=_NOW, sampling=sampling)
    from rag_owl.model.spliced.answerer import SplicedAnswerer

    return SplicedAnswerer(local.model, local.processor, blobs, name=_NOW, sampling=sampling)


@dataclass(frozen=True, slots=True)
class Row:
    """An example as ids: the prompt as the model answers it, then the answer and its end."""

    ids: list[int]
    learnt: list[bool]  # which of them
    starts: list[int]  # of each picture's placeholder
    pictures: list[str]  # sha256


def row_of(local: Local, example: Example, longest: int) -> Row:
    """Items that do not fit in `longest` ids are left out from the last rank on.

    Raises `InvalidInput` where not even the question and the answer fit.
    """
    context = example.context()
    sights = Sights.of(context)
    answer = [*local.tokenizer.encode(example.answer), local.ends]
    for shown in range(len(context.sources), -1, -1):
        laid = lay_out(context, sights, shown)
        prompt = laid.prompt(local.processor)
        if prompt.positions + len(answer) <= longest:
            pictures = [view.blob for view in laid.views]
            ids, starts = [*prompt.input_ids, *answer], prompt.image_starts
            learnt = [False] * len(prompt.input_ids) + [True] * len(answer)
            if laid.turns and local.family == "owl1":
                turns = [*laid.turns, Turn("user", tuple(laid.parts))]
                said = conversation(local.processor, turns, example.answer, local.ends)
                ids, learnt, starts = said
                if len(ids) > longest:
                    continue
            return Row(ids, learnt, starts, pictures)
    raise InvalidInput(f"example {example.id!r} does not fit in {longest} positions")


class Learner(nn.Module):
    """What the trainer steps: `forward` gives the mean loss of a batch's answers."""

    def __init__(self, local: Local, pictures: Pictures, kept: Path | None = None) -> None:
        """kept: a folder for what frozen eyes see, so that they look once and not every epoch."""
        super().__init__()
        self.local, self.pictures = local, pictures
        self.model: nn.Module = local.model
        self._kept = FeatureStore(kept, ROOM, "float32") if kept is not None else None
        self.looked = 0  # pictures that went through the eyes

    def forward(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            mask[i, : len(row.ids)] = 1
        keys = [key for row in rows for key in row.pictures]
        memory = self._memory(keys) if keys else None
        model: Any = self.model
        if self.local.family == "owl3":
            logits = model(ids.to(model.device), memory, [row.starts for row in rows], mask)
            lengths = [len(row.ids) for row in rows]
        else:
            counts = [len(row.pictures) for row in rows]
            embeds, there = model.embed(ids, memory, counts, mask)
            out = model.language_model(inputs_embeds=embeds, attention_mask=there, use_cache=False)
            logits, lengths = out.logits.float(), there.sum(1).tolist()
        said, wanted = [], []
        for i, row in enumerate(rows):
            # Where a placeholder takes more positions than ids, what is learnt stands behind it.
            more = int(lengths[i]) - len(row.ids)
            at = [index for index, learnt in enumerate(row.learnt) if learnt]
            said.append(logits[i, torch.tensor(at, device=logits.device) + more - 1])
            wanted.append(torch.tensor([row.ids[index] for index in at], device=logits.device))
        loss = F.cross_entropy(torch.cat(said), torch.cat(wanted))
        return {"loss": loss + self._untouched()}

    def _untouched(self) -> Tensor:
        """0, with a gradient for all that learns (outside of sharded layers, which always run): a
        batch may have no picture, and each of several processes sends as many gradients."""
        learning = [
            p for p in self.parameters() if p.requires_grad and not hasattr(p, "full_tensor")
        ]
        return sum((p.flatten()[0] * 0 for p in learning), torch.zeros(()))

    def activation_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """As the trainer asks for it: what a layer computes is computed again on the way back."""
        again = partial(checkpoint, use_reentrant=False)
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.gradient_checkpointing = True
                module._gradient_checkpointing_func = again

    gradient_checkpointing_enable = activation_checkpointing_enable

    # --- pictures ---------------------------------------------------------------------------

    def _memory(self, keys: Sequence[str]) -> VisualMemory:
        model: Any = self.model
        see, finish = _eyes(self.local)
        frozen = not any(p.requires_grad for p in _seeing(self.local))
        distinct = list(dict.fromkeys(keys))
        if frozen and self._kept is not None:
            seen = self._remembered(distinct, see)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                seen = see(self._pixels(distinct))
        at = torch.tensor([distinct.index(key) for key in keys])
        features = finish(seen[at.to(seen.device)])
        return VisualMemory(features, model.memory_identity, new_ids(len(keys)))

    def _remembered(self, keys: Sequence[str], see: Callable[[Tensor], Tensor]) -> Tensor:
        assert self._kept is not None
        model: Any = self.model
        identity = MemoryIdentity(_digest(_seeing(self.local)), model.preprocessing)
        found = {key: self._kept.get(identity, key) for key in keys}
        new = [key for key, memory in found.items() if memory is None]
        if new:
            with torch.no_grad():
                fresh = VisualMemory(see(self._pixels(new)), identity, tuple(new))
            fresh = self._kept.put_all(fresh, new)
            found.update((key, fresh[i : i + 1]) for i, key in enumerate(new))
        there = [memory.dense(model.device, model.dtype) for memory in found.values() if memory]
        return torch.cat(there)

    def _pixels(self, keys: Sequence[str]) -> Tensor:
        model: Any = self.model
        self.looked += len(keys)
        pictures = [decode_picture(self.pictures.get(key)) for key in keys]
        pixels: Tensor = self.local.processor.pixels(pictures)
        return pixels.to(model.device, model.dtype)


def _eyes(local: Local) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What a picture costs much to go through, and what little follows."""
    model = local.model
    if local.family == "owl3":
        return model.vision_model, model.vision2text_model
    return model.encode, lambda seen: seen


def _seeing(local: Local) -> list[nn.Parameter]:
    """The parameters that what the eyes see depends on."""
    if local.family == "owl3":
        return list(local.model.vision_model.parameters())
    out: list[nn.Parameter] = []
    for part in local.model._vision_parts():
        out += part.parameters() if isinstance(part, nn.Module) else [part]
    return out


_digests: dict[tuple[tuple[int, int], ...], str] = {}


def _digest(parameters: Sequence[nn.Parameter]) -> str:
    state = tuple((p.data_ptr(), p._version) for p in parameters)
    if state not in _digests:
        digest = hashlib.sha256()
        for p in parameters:
            flat = p.detach().flatten()
            some = flat[:: max(1, len(flat) // 997)].clone()  # NumPy would pin a shard's storage
            digest.update(some.float().cpu().numpy().tobytes())
        _digests.clear()
        _digests[state] = f"eyes-{digest.hexdigest()[:16]}"
    return _digests[state]


def collate(rows: Sequence[Row]) -> Mapping[str, Any]:
    return {"rows": list(rows)}
