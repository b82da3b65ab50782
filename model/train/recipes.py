"""What each stage of a recipe trains, and how. Everything that is not named stays frozen.

Patterns are those of `fnmatch` over the names of a model's parameters; "layers.-1." is the last
layer. Where a family's authors published rates they are theirs; `steps` and batches are the user's.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from rag_owl.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class LowRank:
    """LoRA (Hu et al. 2021): the named linear layers learn a difference of rank `rank`."""

    targets: str  # a regular expression over the names of modules
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    rate: float  # the peak
    trains: tuple[str, ...] = ()
    low_rank: LowRank | None = None
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: float = 0.04  # share of the steps
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    temperature: tuple[float, float] | None = None  # of drawn visual tokens, first and last step

    def chosen(self, names: Iterable[str]) -> set[str]:
        """Of a model's parameters those that learn. Raises `InvalidInput`: a pattern fits none."""
        names = list(names)
        out: set[str] = set()
        for pattern in self.trains:
            found = fnmatch.filter(names, _last_layer(pattern, names))
            if not found:
                raise InvalidInput(
                    f"stage {self.name!r} trains {pattern!r}, which this model does not have: "
                    "take the recipe of its family"
                )
            out.update(found)
        return out


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    families: tuple[str, ...]
    stages: tuple[Stage, ...]
    about: str

    def stage(self, number: int) -> Stage:
        """From 1. Raises `InvalidInput`."""
        if not 1 <= number <= len(self.stages):
            raise InvalidInput(f"recipe {self.name} has stages 1 to {len(self.stages)}")
        return self.stages[number - 1]


def _last_layer(pattern: str, names: list[str]) -> str:
    before, found, after = pattern.partition(".-1.")
    if not found:
        return pattern
    numbers = [m[1] for n in names if (m := re.match(re.escape(before) + r"\.(\d+)\.", n))]
    return f"{before}.{max(map(int, numbers), default=0)}.{after}"


_OWL3_NEW = ("vision2text_model.*", "*.v_kv_proj.*", "*.self_attn.*gate*")
_OVIS_EYES = ("head.*", "vte.*")
_FALLING = (5.0, 0.05)  # Ovis' train.py; only where visual tokens are drawn (gumbel_argmax)
_WORDS = r".*language_model.*\.(q_proj|v_proj)"

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "owl1",
            ("owl1",),
            (  # Ye et al. 2023 (arXiv 2304.14178), table of the appendix; released train_it.sh
                Stage(
                    "see",
                    2e-4,
                    ("vision_model.*", "abstractor.*", "query_tokens"),
                    betas=(0.9, 0.98),
                    epsilon=1e-6,
                    weight_decay=0.01,
                ),
                Stage(
                    "speak",
                    2e-5,
                    low_rank=LowRank(_WORDS),
                    schedule="linear",
                    warmup=0.012,
                    weight_decay=1e-4,
                ),
            ),
            "vision tower and abstractor, then LoRA on the language model",
        ),
        Recipe(
            "ovis",
            ("ovis16",),
            (  # released scripts of Ovis 1.5, SigLIP
                Stage(
                    "head",
                    1e-4,
                    ("vision_model.encoder.layers.-1.*", *_OVIS_EYES),
                    warmup=0.1,
                    temperature=_FALLING,
                ),
                Stage(
                    "eyes",
                    5e-5,
                    ("vision_model.*", *_OVIS_EYES),
                    warmup=0.1,
                    temperature=_FALLING,
                ),
                Stage("all", 1e-5, ("*",), warmup=0.05, temperature=_FALLING),
            ),
            "visual head, table and last vision layer; the whole vision tower too; everything",
        ),
        Recipe(
            "owl3",
            ("owl3",),
            (  # Ye et al. 2024 (arXiv 2408.04840) trains the new parts first; rates are ours
                Stage("hyper", 1e-3, _OWL3_NEW),
                Stage("speak", 2e-5, (*_OWL3_NEW, "language_model.*")),
            ),
            "projector, visual keys and values and gate; then projector and language model",
        ),
        Recipe(
            "lora",
            ("owl1", "ovis16", "owl3"),
            (
                Stage(
                    "adapt",
                    1e-4,
                    low_rank=LowRank(r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)", rank=16),
                    schedule="linear",
                    warmup=0.03,
                ),
            ),
            "LoRA on the attention of any local model's language part",
        ),
    )
}


def recipe(name: str) -> Recipe:
    """Raises `InvalidInput`."""
    if name not in RECIPES:
        raise InvalidInput(f"no recipe {name!r}; there are {', '.join(sorted([*RECIPES, 'nano']))}")
    return RECIPES[name]
