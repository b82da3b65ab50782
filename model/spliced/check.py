"""Comparing mPLUG-Owl, Ovis 1.6 and Qwen2-VL with what their published code computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.check import CheckReport, Comparison, Family
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.spliced.families import FAMILIES
from rag_owl.model.spliced.generate import generate
from rag_owl.model.spliced.model import Spliced

# Expected tensors that state nothing about a model: masks, and what the published code never uses.
_NO_RESULT = {
    "merged_attention_mask",
    "merged_labels",
    "labels_after_masking",
    "inputs_embeds_generate",
    "vision_last_hidden_state_unused",
    "vision_pooler_output",
}


def check_folder(folder: Path, family: Family, *, tolerance: float | None = None) -> CheckReport:
    """Load `folder` and compare it, in float32 then. Raises InvalidCheckpoint."""
    facts = FAMILIES[family]
    compares = all((folder / f"{n}.safetensors").is_file() for n in ("inputs", "expected"))
    model = facts.model().from_pretrained(folder, dtype="float32" if compares else None)
    found: list[Comparison] = []
    notes: list[str] = []
    if compares:
        if family == "qwen2_vl":
            from rag_owl.model.qwen2_vl.check import compare

            found = compare(model, folder, tolerance or facts.tolerance)  # type: ignore[arg-type]
        else:
            found, notes = _compare(model, folder, tolerance or facts.tolerance)
    return CheckReport(
        str(folder),
        family,
        sum(p.numel() for p in model.parameters()),
        tolerance or facts.tolerance,
        tuple(found),
        tuple(notes),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _compare(model: Spliced, folder: Path, tolerance: float) -> tuple[list[Comparison], list[str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        inputs = load_file(folder / "inputs.safetensors")
        expected = load_file(folder / "expected.safetensors")
        input_ids = inputs["input_ids"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InvalidCheckpoint(f"{folder}: the case cannot be read ({error}).") from None
    mask = inputs.get("attention_mask")
    counts = [model.pictures_in(row) for row in input_ids]
    found: dict[str, Tensor] = {}
    memory = None
    if sum(counts):
        pixels = inputs["pixel_values"][: sum(counts)]
        trace: dict[str, Tensor] = {}
        with torch.no_grad():
            model.encode(pixels, trace)
        found |= trace
        memory = model.remember(pixels)  # with gradients, where they are compared
    embeds, valid = model.embed(input_ids, memory, counts, mask)
    logits = model(input_ids, memory, counts, mask)
    found["inputs_embeds"], found["logits"] = embeds / model.scale, logits
    if "loss" in expected:
        found |= _loss(model, logits, valid, inputs, expected)
    where = expected.get("merged_attention_mask", mask)
    results, notes = [], []
    if model.runs_together(input_ids):
        notes.append(
            "logits, loss and greedy ids: pictures stand side by side without text between them, "
            "and the published code drops all but the first"
        )
    for name, want in sorted(expected.items()):
        if name in _NO_RESULT or name.startswith("greedy"):
            continue
        after_pictures = name in ("inputs_embeds", "logits", "loss") or name.startswith("grad.")
        if after_pictures and notes:
            continue
        got = found.get(name)
        if got is not None and name in ("inputs_embeds", "logits") and where is not None:
            got = torch.cat([row[: int(n)] for row, n in zip(got, valid.sum(1), strict=True)])
            want = want[where.bool()]
        if got is None or got.shape != want.shape:
            results.append(Comparison(name, float("inf"), False))
            continue
        difference = float((got.detach().float() - want.float()).abs().max())
        results.append(Comparison(name, difference, difference <= tolerance))
    if not notes:
        results += _greedy(model, inputs, expected, counts, memory)
    return results, notes


def _greedy(
    model: Spliced,
    inputs: dict[str, Tensor],
    expected: dict[str, Tensor],
    counts: list[int],
    memory: VisualMemory | None,
) -> list[Comparison]:
    """Each row alone, without padding."""
    results, first = [], 0
    for row, ids in enumerate(inputs["input_ids"]):
        mine = memory[first : first + counts[row]] if memory is not None and counts[row] else None
        first += counts[row]
        name = f"greedy_row_{row}"
        want = expected.get(name)
        if want is None and "greedy_ids" in expected:
            name, want = f"greedy_ids.{row}", expected["greedy_ids"][row]
        if want is None:
            continue
        if "attention_mask" in inputs:
            ids = ids[inputs["attention_mask"][row].bool()]
        wanted = want.tolist()
        got = generate(model, ids, mine, Sampling(max_new_tokens=len(wanted)))
        got += [0] * (len(wanted) - len(got))  # as the cases are padded behind their end
        wrong = sum(a != b for a, b in zip(got, wanted, strict=True))
        results.append(Comparison(name, wrong, wrong == 0))
    return results


def _loss(
    model: Spliced,
    logits: Tensor,
    valid: Tensor,
    inputs: dict[str, Tensor],
    expected: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The training loss and, where they are expected, its gradients."""
    if "merged_labels" in expected:
        where = expected["merged_attention_mask"].bool()
        labels = torch.full(logits.shape[:2], -100)
        for row, there in enumerate(where):
            mine = expected["merged_labels"][row][there]
            labels[row, : len(mine)] = mine
    else:
        labels = inputs["labels"].clone()
        learnt = inputs["non_padding_mask"] * inputs["non_media_mask"] * inputs["prompt_mask"]
        labels[:, 1:][learnt != 1] = -100
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(logits.device), ignore_index=-100
    )
    found: dict[str, Tensor] = {"loss": loss[None]}
    wanted = [name.removeprefix("grad.") for name in expected if name.startswith("grad.")]
    if wanted:
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name in wanted:
            found[f"grad.{name}"] = _gradient(model, name, expected[f"grad.{name}"])
    return found


def _gradient(model: Spliced, name: str, like: Tensor) -> Tensor:
    """The gradient of the tensor that a checkpoint calls `name`, in the checkpoint's shape."""
    ((mine, _),) = model._renamed({name: like}, {}).items()
    parameter: Any = model.get_parameter(mine)
    gradient: Tensor = parameter.grad
    return gradient.reshape(like.shape)
