"""Masks at another size."""

import pytest
import torch
from torch.nn import functional as F

from knet.modeling.masks import enlarge, resize


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 20, 9, 16), (3, 1, 1, 1)])
@pytest.mark.parametrize("function", ["enlarge", "resize"])
def test_twice_the_size_is_pytorchs_in_training_too(function, shape):
    """Values and gradient; the edges, and maps of one row and column."""
    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.randn(shape, generator=generator)
    size = tuple(2 * side for side in shape[2:])
    weight = torch.randn((*shape[:2], *size), generator=generator)

    def ours(x):
        return enlarge(x, 2) if function == "enlarge" else resize(x, size)

    def theirs(x):
        return F.interpolate(x, size, mode="bilinear", align_corners=False)

    assert torch.equal(ours(x), theirs(x))  # in inference it is the same program
    found = []
    for change in (ours, theirs):
        x = x.detach().requires_grad_()
        y = change(x)
        (y * weight).sum().backward()
        found.append((y.detach(), x.grad))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_twice_the_size_within_autocast_is_in_single_precision():
    x = torch.rand(1, 4, 6, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = enlarge(x, 2)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, F.interpolate(x, scale_factor=2, mode="bilinear"))


def test_twice_the_size_in_a_program():
    """One is the same program whether it learns or not: PyTorch compares them."""
    x = torch.rand(1, 4, 6, 8, requires_grad=True)
    traced = torch.jit.trace(lambda x: enlarge(x, 2), x)
    torch.testing.assert_close(traced(x), enlarge(x, 2))
    compiled = torch.compile(lambda x: resize(x, (12, 16)), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), enlarge(x, 2))
