"""Where and in which numbers a model runs, and what happens when there is no room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rag_owl.errors import InvalidSettings, OutOfMemory

KEPT_WIDE = ("self_attn.gate_proj", "v_kv_proj", "lm_head")

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def dtype_of(wanted: torch.dtype | str) -> torch.dtype:
    """Raises InvalidSettings unless it is float32, float16 or bfloat16."""
    found = DTYPES.get(str(wanted).removeprefix("torch."))
    if found is None:
        raise InvalidSettings(f"dtype {wanted}: choose one of {', '.join(DTYPES)}.")
    return found


def device_of(device_map: str | torch.device | dict[str, Any] | None) -> torch.device:
    """Raises InvalidSettings: a device that is not here, or a map over several."""
    if device_map is None:
        return torch.device("cpu")
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise InvalidSettings('device_map as a dict must be {"": device}: one device for all.')
        device_map = device_map[""]
    if device_map == "auto":
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(str(device_map))
    except (RuntimeError, TypeError) as error:
        raise InvalidSettings(f"device_map {device_map!r}: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidSettings(f"device_map {device_map!r}: there is no CUDA device here.")
    return device


def quantize(language_model: nn.Module, bits: str, device: torch.device) -> None:
    """The language model's large matrices in 8 or 4 bits; the head and visual projections stay.

    Raises InvalidSettings: another word than "8bit" or "4bit", or bitsandbytes not installed.
    """
    if bits not in ("8bit", "4bit"):
        raise InvalidSettings(f'quantize {bits!r}: choose "8bit" or "4bit".')
    try:
        import bitsandbytes  # type: ignore[import-not-found]
    except ImportError:
        raise InvalidSettings(
            f"quantize {bits!r} needs bitsandbytes; install rag-owl[gpu]."
        ) from None
    for name, module in list(language_model.named_modules()):
        if not isinstance(module, nn.Linear) or any(part in name for part in KEPT_WIDE):
            continue
        parent = language_model.get_submodule(name.rpartition(".")[0])
        has_bias = module.bias is not None
        if bits == "8bit":
            small: nn.Linear = bitsandbytes.nn.Linear8bitLt(
                module.in_features, module.out_features, has_bias, has_fp16_weights=False
            )
            small.weight = bitsandbytes.nn.Int8Params(
                module.weight.data, requires_grad=False, has_fp16_weights=False
            )
        else:
            small = bitsandbytes.nn.Linear4bit(
                module.in_features,
                module.out_features,
                has_bias,
                compute_dtype=module.weight.dtype,
                quant_type="nf4",
            )
            small.weight = bitsandbytes.nn.Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4"
            )
        if has_bias:
            small.bias = nn.Parameter(module.bias.data)
        # The numbers become small when they move to the device.
        setattr(parent, name.rpartition(".")[2], small.to(device))


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turns the device's refusal into OutOfMemory and gives back what the failed try held."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        failed = str(error).splitlines()[0]
    except RuntimeError as error:
        # The CPU's allocator raises a plain RuntimeError.
        if "can't allocate memory" not in str(error):
            raise
        failed = "the CPU's memory is full"
    else:
        return
    # Out of the except block, so that no traceback keeps the tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory(
        f"no memory for {what} ({failed}). Show fewer pictures or a shorter prompt; the model "
        "goes on serving other requests."
    )
