"""LoRA adapters: a folder with a base model's name and the difference to it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model import checkpoint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's own names
# Settings of peft's that make more of an adapter than W + alpha / r * B A.
_MORE = (
    "alpha_pattern",
    "rank_pattern",
    "use_rslora",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "target_parameters",
)


def base_of(folder: str | Path) -> str | None:
    """The base model of an adapter's folder; None where it is none. Raises InvalidCheckpoint."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    name, seen = _base(path), {path.resolve()}
    further = name
    while (beyond := Path(further) / CONFIG).is_file():  # an adapter of an adapter
        if beyond.resolve() in seen:
            raise InvalidCheckpoint(f"{path}: its base model {name} rests on it again")
        seen.add(beyond.resolve())
        further = _base(beyond)
    return name


def _base(path: Path) -> str:
    name = checkpoint.read_json(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InvalidCheckpoint(f"{path} does not name its base model")
    return name


def merge(model: nn.Module, folder: str | Path) -> None:
    """Add an adapter's difference to the model's own weights: W + alpha / r * B A (Hu et al. 2021,
    arXiv 2106.09685, section 4.1).

    Raises InvalidCheckpoint: an adapter of another base, or of a kind that is no plain LoRA, which
    would change the weights otherwise. The model's weights are as they were then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    file, config = folder / WEIGHTS, checkpoint.read_json(folder / CONFIG)
    more = [name for name in _MORE if config.get(name)]
    if config.get("peft_type", "LORA") != "LORA" or config.get("bias", "none") != "none" or more:
        said = ", ".join(
            f"{name} {config[name]!r}" for name in ("peft_type", "bias", *more) if name in config
        )
        raise InvalidCheckpoint(f"{folder / CONFIG}: only plain LoRA can be added, not {said}.")
    try:
        scale = float(config["lora_alpha"]) / int(config["r"])
        tensors = load_file(file)
    except (KeyError, TypeError, ValueError, OSError, ZeroDivisionError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{folder} is no LoRA adapter: {error}") from error
    own = dict(model.named_parameters())
    changes = []
    for name, down in tensors.items():
        module, _, end = name.partition(".lora_A.")
        if end == "":
            if ".lora_B." in name and name.replace(".lora_B.", ".lora_A.") in tensors:
                continue  # taken with its other half
            raise InvalidCheckpoint(f"{file}: {name} is no half of a LoRA difference.")
        up, weight = tensors.get(f"{module}.lora_B.{end}"), own.get(f"{module}.weight")
        if up is None:
            raise InvalidCheckpoint(f"{file}: {name} lacks its other half, {module}.lora_B.{end}.")
        if weight is not None and not weight.is_floating_point():  # packed: of another shape
            raise InvalidCheckpoint(f"{file}: nothing can be added to a base in 8 or 4 bits.")
        fits = (up.shape[0], down.shape[1])
        if weight is None or weight.shape != fits:
            has = "no such tensor" if weight is None else f"one of {tuple(weight.shape)}"
            raise InvalidCheckpoint(
                f"{file} does not fit its base model, {config.get('base_model_name_or_path')}: it "
                f"changes {module}.weight of {fits}, the base has {has}. It was made for another."
            )
        changes.append((weight, up, down))
    if not changes:
        raise InvalidCheckpoint(f"{file} holds no LoRA difference.")
    with torch.no_grad():
        for weight, up, down in changes:
            weight.add_((scale * (up.float() @ down.float())).to(weight.device, weight.dtype))
