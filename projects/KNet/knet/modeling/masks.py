"""Masks at another size."""

from typing import Sequence

import torch
from torch.nn import functional as F

__all__ = ["enlarge", "resize"]


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, N, H, W) -> (B, N, height, width), bilinear; the same tensor if it has that size."""
    size = tuple(size)
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def enlarge(x: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, N, H, W) -> (B, N, factor H, factor W), bilinear, as in Detectron2's heads."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
