"""LoRA adapters: a folder with a base model's name and the difference to it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model import checkpoint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's own names


def base_of(folder: str | Path) -> str | None:
    """The base model of an adapter's folder; None where it is none. Raises InvalidCheckpoint."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    name = checkpoint.read_json(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InvalidCheckpoint(f"{path} does not name its base model")
    return name


def merge(model: nn.Module, folder: str | Path) -> None:
    """Add an adapter's difference to the model's own weights. Raises InvalidCheckpoint."""
    from safetensors.torch import load_file

    folder = Path(folder)
    config = checkpoint.read_json(folder / CONFIG)
    try:
        scale = float(config["lora_alpha"]) / int(config["r"])
        tensors = load_file(folder / WEIGHTS)
    except (KeyError, TypeError, ValueError, OSError, ZeroDivisionError) as error:
        raise InvalidCheckpoint(f"{folder} is no LoRA adapter: {error}") from error
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, down in tensors.items():
            if ".lora_A." not in name:
                continue
            module, _, end = name.partition(".lora_A.")
            up = tensors.get(f"{module}.lora_B.{end}")
            weight = own.get(f"{module}.weight")
            if up is None or weight is None or weight.shape != (up.shape[0], down.shape[1]):
                raise InvalidCheckpoint(f"{folder}: {name} does not fit this model")
            weight.add_((scale * (up.float() @ down.float())).to(weight.device, weight.dtype))
