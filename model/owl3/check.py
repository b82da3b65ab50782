"""Does a checkpoint folder load, and does it compute what is expected of it?

A folder may hold `inputs.safetensors` and `expected.safetensors` beside its weights: then every
named tensor and the greedy ids are compared.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.check import CheckReport, Comparison
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.model import Owl3
from rag_owl.model.sight import Trace

TOLERANCE = 1e-4


def check_folder(
    folder: str | Path,
    *,
    tolerance: float = TOLERANCE,
    dtype: torch.dtype | str | None = None,
    device_map: str | None = None,
    memory_file: Path | None = None,
) -> CheckReport:
    """Load `folder` and compare it with its expectations, where it holds some.

    `memory_file`: write the features there and use what is read back (bit for bit, float32).
    Raises ModelNotFound and InvalidCheckpoint as `Owl3.from_pretrained` does.
    """
    folder = Path(folder)
    model = Owl3.from_pretrained(folder, dtype=dtype, device_map=device_map)
    comparisons: list[Comparison] = []
    if (folder / "inputs.safetensors").is_file() and (folder / "expected.safetensors").is_file():
        comparisons = _compare(model, folder, tolerance, memory_file)
    return CheckReport(
        str(folder),
        model.config.variant,
        sum(p.numel() for p in model.parameters()),
        tolerance,
        tuple(comparisons),
        dtype=str(next(model.language_model.parameters()).dtype).removeprefix("torch."),
    )


@torch.no_grad()
def _compare(
    model: Owl3, folder: Path, tolerance: float, memory_file: Path | None
) -> list[Comparison]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        inputs = load_file(folder / "inputs.safetensors")
        expected = load_file(folder / "expected.safetensors")
        input_ids = inputs["input_ids"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InvalidCheckpoint(f"{folder}: the case cannot be read ({error}).") from None
    starts = _per_row(inputs)
    memory: VisualMemory | None = None
    found = Trace()
    if "pixel_values" in inputs:
        memory = model.remember(inputs["pixel_values"])
        found["image_embeds"] = memory.features
        if memory_file is not None:
            memory.save(memory_file, "float32")
            memory = VisualMemory.load(memory_file, model.memory_identity)
    mask = inputs.get("attention_mask")
    found["logits"] = model(input_ids, memory, starts, mask, trace=found)
    results = []
    if "generated" in expected:
        wanted = expected["generated"]
        got = model.generate(input_ids, memory, starts, mask, max_new_tokens=wanted.shape[1])
        wrong = int((got.cpu() != wanted).sum()) if got.shape == wanted.shape else wanted.numel()
        results.append(Comparison("generated", wrong, wrong == 0))
        found["decode_logits"] = _decode(model, input_ids, memory, starts, mask, wanted)
    for name, want in sorted(expected.items()):
        if name == "generated":
            continue
        if name not in found or found[name].shape != want.shape:
            results.append(Comparison(name, float("inf"), False))
            continue
        difference = float((found[name].float().cpu() - want.float()).abs().max())
        results.append(Comparison(name, difference, difference <= tolerance))
    return results


def _decode(
    model: Owl3,
    input_ids: Tensor,
    memory: VisualMemory | None,
    starts: list[list[int]],
    mask: Tensor | None,
    tokens: Tensor,
) -> Tensor:
    """The logits from which each of the given tokens was chosen, with a cache: (B, n, V)."""
    from rag_owl.model.owl3.state import DecodingState

    state = DecodingState()
    logits = [model(input_ids, memory, starts, mask, state=state, last_only=True)]
    logits += [
        model(tokens[:, i : i + 1], state=state, last_only=True) for i in range(tokens.shape[1] - 1)
    ]
    return torch.cat(logits, dim=1)


def _per_row(inputs: dict[str, Tensor]) -> list[list[int]]:
    """The flat starts of the cases as one list per row."""
    counts = inputs["images_per_row"].tolist() if "images_per_row" in inputs else []
    flat = inputs["image_starts"].tolist() if "image_starts" in inputs else []
    starts, first = [], 0
    for row in range(inputs["input_ids"].shape[0]):
        count = counts[row] if row < len(counts) else 0
        starts.append(flat[first : first + count])
        first += count
    return starts
