"""Does a checkpoint folder load, whatever its family, and does it compute what is expected of it?

A folder may hold `inputs.safetensors` and `expected.safetensors` beside its weights: then every
named tensor and the greedy ids are compared. No tokenizer is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model import checkpoint

Family: TypeAlias = Literal["owl3", "owl1", "ovis16", "qwen2_vl"]

# A tensor that only that family's checkpoints hold -> the family.
_TELLING: tuple[tuple[str, Family], ...] = (
    (".v_kv_proj.weight", "owl3"),
    ("abstractor.vit_eos", "owl1"),
    ("visual_tokenizer.head.0.weight", "ovis16"),
    ("visual.merger.ln_q.bias", "qwen2_vl"),  # its successors' norm there has none
)
NAMES: dict[Family, str] = {
    "owl3": "mPLUG-Owl3",
    "owl1": "mPLUG-Owl",
    "ovis16": "Ovis 1.6",
    "qwen2_vl": "Qwen2-VL",
}
HUB_IDS: dict[Family, tuple[str, ...]] = {  # as published
    "owl3": (
        "mPLUG/mPLUG-Owl3-7B-240728",
        "mPLUG/mPLUG-Owl3-1B-241014",
        "mPLUG/mPLUG-Owl3-2B-241014",
        "mPLUG/mPLUG-Owl3-7B-241101",
    ),
    "owl1": ("MAGAer13/mplug-owl-llama-7b",),
    "ovis16": ("AIDC-AI/Ovis1.6-Gemma2-9B", "AIDC-AI/Ovis1.6-Llama3.2-3B"),
    "qwen2_vl": ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    name: str
    largest_difference: float  # absolute; for ids, how many differ
    ok: bool


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check_folder` found. `comparisons` is empty where the folder states no expectation."""

    folder: str
    variant: str
    parameters: int
    tolerance: float
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()  # what was not compared, and why
    dtype: str = "float32"  # in which it was loaded

    @property
    def ok(self) -> bool:
        return all(comparison.ok for comparison in self.comparisons)

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.folder}: variant {self.variant}, {self.parameters:,} parameters"]
        if not self.comparisons:
            nothing = "no inputs.safetensors and expected.safetensors to compare with"
            lines.append(f"loads in {self.dtype}; {nothing}")
        for c in self.comparisons:
            verdict = "ok" if c.ok else "DIFFERS"
            lines.append(f"  {c.name:24} {c.largest_difference:.3e}  {verdict}")
        return lines + [f"  not compared: {note}" for note in self.notes]


def family_of(folder: Path) -> Family:
    """Which family a checkpoint folder belongs to, told from the names of its tensors.

    Raises InvalidCheckpoint: none that is known, or no weights.
    """
    names = list(checkpoint.tensor_names(folder))
    found = [family for ending, family in _TELLING if any(n.endswith(ending) for n in names)]
    if len(found) == 1:
        return found[0]
    stated = checkpoint.read_json(folder / "config.json").get("model_type")
    some = ", ".join(sorted(names)[:3])
    raise InvalidCheckpoint(
        f"{folder} is no checkpoint of {_listed(NAMES.values())}: config.json says model_type "
        f"{stated!r}, and its {len(names)} tensors begin with {some}."
    )


def check_folder(folder: str | Path, *, tolerance: float | None = None) -> CheckReport:
    """Load `folder` and compare it with its expectations, where it holds some.

    tolerance: the largest absolute difference that passes; None: what its family is held to.
    Raises ModelNotFound, InvalidCheckpoint.
    """
    folder = checkpoint.find_folder(folder)
    family = family_of(folder)
    if family == "owl3":
        from rag_owl.model.owl3 import check as owl3

        return owl3.check_folder(folder, tolerance=tolerance or owl3.TOLERANCE)
    from rag_owl.model.spliced import check as spliced

    return spliced.check_folder(folder, family, tolerance=tolerance)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
