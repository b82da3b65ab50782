"""Results of training as folders that `--model` accepts: whole checkpoints, or LoRA adapters."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rag_owl.model import checkpoint
from rag_owl.model.adapter import WEIGHTS
from rag_owl.model.train.learner import Local
from rag_owl.model.train.recipes import LowRank, Stage


def add(model: nn.Module, plan: LowRank) -> None:
    """Low-rank layers beside the named ones; they alone learn."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=plan.rank, lora_alpha=plan.alpha, lora_dropout=plan.dropout, target_modules=plan.targets
    )
    inject_adapter_in_model(config, model)


def write(local: Local, stage: Stage, base: str, folder: Path, card: dict[str, Any]) -> None:
    """The folder is there whole or not at all."""
    arriving = folder.with_name(folder.name + ".part")
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(parents=True)
    if stage.low_rank is not None:
        _write_adapter(local.model, stage.low_rank, base, arriving)
    else:
        _write_model(local, checkpoint.find_folder(base), arriving)
    (arriving / "card.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(arriving, folder)


def _write_adapter(model: nn.Module, plan: LowRank, base: str, folder: Path) -> None:
    from peft import LoraConfig

    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if ".lora_" in name
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = LoraConfig(
        r=plan.rank, lora_alpha=plan.alpha, lora_dropout=0.0, target_modules=plan.targets
    )
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _write_model(local: Local, base: Path, folder: Path) -> None:
    """Weights under the names of the checkpoint it came from, and that one's other files."""
    for file in base.iterdir():
        if file.suffix in (".json", ".txt", ".jinja", ".model") and "index" not in file.name:
            shutil.copy(file, folder)
    if local.family == "owl3":
        local.model.save_pretrained(folder)
        return
    mine = dict(local.model.named_parameters())
    mine.update(local.model.named_buffers())
    tensors: dict[str, Tensor] = {}
    raw = checkpoint.read_json(base / "config.json")
    for name, stored in checkpoint.read_tensors(checkpoint.weight_files(base)):
        renamed = local.model._renamed({name: stored}, raw)
        if len(renamed) == 1 and (found := mine.get(next(iter(renamed)))) is not None:
            stored = found.detach().reshape(stored.shape).to("cpu", stored.dtype)
        elif len(renamed) > 1:  # one tensor there, several here: mPLUG-Owl's fused vision queries
            flat = stored.flatten().clone()
            places = torch.arange(stored.numel()).view(stored.shape)
            for piece, at in local.model._renamed({name: places}, raw).items():
                flat[at.flatten()] = mine[piece].detach().flatten().to("cpu", stored.dtype)
            stored = flat.view(stored.shape)
        tensors[name] = stored.clone().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
