"""Weights parted over several processes: FSDP2 (torch's `fully_shard`), on GPUs or over gloo.

accelerate's own FSDP refuses CPUs, where it is tested; the Trainer knows modules that are sharded
before it gets them, and leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rag_owl.errors import InvalidInput
from rag_owl.model.hyper_attention import HyperAttention
from rag_owl.model.train.learner import Learner


def shard(learner: Learner, device: torch.device) -> None:
    """Part every layer of the language model, and the rest as one, over all processes.

    Raises `InvalidInput`: this is one process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized() or dist.get_world_size() < 2:
        raise InvalidInput(
            "--shard needs several processes: torchrun --nproc-per-node N -m rag_owl.api.cli "
            "train run … --shard"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in learner.local.model.language_model.modules():
        if not isinstance(module, GradientCheckpointingLayer):
            continue
        # Pictures' keys and values are made before their layer is run: those go with the rest.
        if not any(isinstance(part, HyperAttention) for part in module.modules()):
            fully_shard(module, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    # What the Trainer asks for before it wraps a module: it must not.
    learner.is_distributed_loading_by_transformers = True  # type: ignore[assignment]
    learner._is_fsdp_managed_module = True  # type: ignore[assignment]


def whole(tensor: Tensor) -> Tensor:
    """All of a parameter, on the CPU; of a sharded one all processes must ask."""
    full: Any = getattr(tensor.detach(), "full_tensor", None)
    return (full() if full is not None else tensor.detach()).cpu().contiguous()


@torch.no_grad()
def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Into a parameter, or this process's part of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        value = distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements
        )
    parameter.copy_(value)


def optimizer_state(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Of all processes together; what is returned counts in the first one alone."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(learner, optimizer, options=options))


def put_optimizer_state(
    learner: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(learner, optimizer, dict(state), options=options)


def read_state(path: Path) -> dict[str, Any]:
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return stored
