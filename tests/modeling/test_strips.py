"""Maps enlarged strip by strip are those that PyTorch enlarges."""

import pytest
import torch
from torch.nn import functional as F

from knet.modeling import strips
from knet.modeling.strips import Strips, strips_of

SIZES = [
    ((5, 4), (20, 16)),
    ((5, 4), (20, 15)),
    ((7, 9), (13, 30)),
    ((1, 1), (5, 7)),
    ((6, 5), (6, 11)),
    ((6, 5), (6, 5)),
    ((20, 16), (7, 4)),
]


def enlarged(maps, parts):
    wide = parts.widen(maps)
    return torch.cat([strip.enlarge(wide) for strip in parts], 2)


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
@pytest.mark.parametrize("size, wanted", SIZES)
def test_values_and_gradient(size, wanted, rows):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(maps, wanted, mode="bilinear", align_corners=False)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected.backward(weight)

    parts = Strips(size, wanted, rows, torch.float64)
    assert len(parts) == -(-wanted[0] // rows)
    torch.testing.assert_close(enlarged(maps, parts), expected)

    of_wide = torch.zeros_like(parts.widen(maps))
    for strip, of_strip in zip(parts, parts.split(weight)):
        strip.add_gradient(of_strip, of_wide)
    torch.testing.assert_close(parts.gradient(of_wide), maps.grad)


def test_a_strip_is_small_and_the_last_one_may_be_smaller(monkeypatch):
    monkeypatch.setattr(strips, "_ON_CPU", 2 * 3 * 16 * 6)
    parts = strips_of(torch.zeros(2, 3, 5, 4), (20, 16))
    assert [len(part[0, 0]) for part in parts.split(torch.zeros(2, 1, 20, 16))] == [6, 6, 6, 2]


def test_inference_may_ask_first():
    """What is kept for the next to ask can be learned through."""
    with torch.inference_mode():
        strips_of(torch.zeros(1, 1, 3, 3), (11, 13))
    maps = torch.randn(1, 1, 3, 3, requires_grad=True)
    enlarged(maps, strips_of(maps, (11, 13))).square().sum().backward()
    assert maps.grad.any()
