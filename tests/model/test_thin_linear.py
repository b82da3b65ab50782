"""Few rows go through another kernel with the same result, what learns through torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rag_owl.model.thin_linear import ThinLinear, thin


@pytest.fixture(scope="module")
def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 300), nn.GELU(), nn.Linear(300, 7, bias=False))
    thinned = copy.deepcopy(plain)
    thin(thinned)
    assert [type(layer) for layer in thinned] == [ThinLinear, nn.GELU, ThinLinear]
    return plain, thinned


@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 1, 64), (2, 3, 64), (0, 64), (40, 64)])
def test_the_result_is_the_same(models: tuple[nn.Module, nn.Module], shape: tuple[int, ...]):
    plain, thinned = models
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(thinned(x), plain(x), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        x = torch.randn(64, 2).T  # not contiguous
        torch.testing.assert_close(thinned(x), plain(x), atol=1e-5, rtol=1e-5)


def test_it_learns_and_takes_other_numbers(models: tuple[nn.Module, nn.Module]):
    _, thinned = models
    thinned(torch.randn(2, 64)).sum().backward()
    assert thinned[0].weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert thinned(torch.randn(1, 64)).dtype == torch.bfloat16
    narrow = copy.deepcopy(thinned).to(torch.bfloat16)
    with torch.no_grad():
        assert narrow(torch.randn(1, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_kernel_is_there() -> None:
    """Else nothing is faster, and nobody sees it."""
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")
