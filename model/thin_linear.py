"""Linear layers that read their weights fast where few rows go through them, as in decoding.

PyTorch leaves float32 to MKL, whose matrix-vector product reads memory at half the speed of
oneDNN's on processors that are not Intel's: 13.7 against 29 GB/s on two cores of an AMD EPYC.
Decoding is nothing but reading weights. oneDNN comes with PyTorch, which uses it for bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FEW = 16  # rows; beyond that the two are about as fast
# What torch.compile lowers linear layers to. It takes the weight as it is stored.
_KERNEL = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class ThinLinear(nn.Linear):
    """`nn.Linear`, with another kernel for few rows of float32 on a CPU, without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and x.numel() <= _FEW * self.in_features
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and _ONEDNN
            and _KERNEL is not None
        ):
            return _KERNEL(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]
        return super().forward(x)


def thin(model: nn.Module) -> None:
    """Every plain linear layer of the model from now on."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = ThinLinear
