"""What export formats lack, made of what they have; the values are the same."""

from contextlib import contextmanager
from typing import Iterator, Optional
from unittest import mock

import torch
from torch.nn import functional as F

from ..modeling.backbones import deform_conv
from ..modeling.semantic import knet_head

__all__ = ["exportable_operators"]


@contextmanager
def exportable_operators() -> Iterator[None]:
    """Within, models run on what exporters follow and ONNX has for every size of image.

    Attention takes its plain path, of matrix products: the fused one is PyTorch's own.
    """
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            mock.patch.object(F, "adaptive_avg_pool2d", adaptive_avg_pool2d),
            mock.patch.object(deform_conv, "deform_conv2d", deform_conv2d),
            mock.patch.object(knet_head, "STOP_AT_CLASSIFIER", False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def adaptive_avg_pool2d(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, size, size), each cell the mean of its share of the map."""
    if size == 1:
        return x.mean((2, 3), keepdim=True)
    rows, columns = (_shares(x.shape[dim], size, x.device) for dim in (2, 3))
    return rows @ x @ columns.t()


def _shares(length: int, size: int, device: torch.device) -> torch.Tensor:
    """(size, length): how much of each cell each place is; neighbours may share a place."""
    place = torch.arange(length, device=device)[None]
    cell = torch.arange(size, device=device)[:, None]
    start = torch.div(cell * length, size, rounding_mode="floor")
    end = torch.div((cell + 1) * length + size - 1, size, rounding_mode="floor")
    inside = ((place >= start) & (place < end)).float()
    return inside / inside.sum(1, keepdim=True)


def deform_conv2d(
    x: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],
    stride: int,
    padding: int,
    dilation: int,
    mask: Optional[torch.Tensor],
) -> torch.Tensor:
    """torchvision's for square kernels and one number a side: sample every tap, then multiply.

    Args:
        x: (B, C, H, W).
        offset: (B, 2 groups taps, h, w), y before x.
        weight: (out channels, C / groups of the convolution, k, k).
        mask: (B, groups taps, h, w).
    """
    kernel = weight.shape[2]
    taps, channels = kernel * kernel, x.shape[1]
    groups = offset.shape[1] // (2 * taps)
    height, width = offset.shape[2], offset.shape[3]
    offset = offset.reshape(-1, taps, 2, height, width)  # (B groups, taps, 2, h, w)
    tap = torch.arange(taps, device=x.device)
    sides = []
    for dim, step, place in (
        (0, torch.div(tap, kernel, rounding_mode="floor"), torch.arange(height, device=x.device)),
        (1, tap % kernel, torch.arange(width, device=x.device)),
    ):
        shape = (-1, 1) if dim == 0 else (1, -1)
        start = (step * dilation - padding)[:, None, None] + (place * stride).view(shape)
        position = start + offset[:, :, dim]  # (B groups, taps, h, w), in pixels
        sides.append((2 * position + 1) / x.shape[2 + dim] - 1)  # -1..1 from edge to edge
    grid = torch.stack((sides[1], sides[0]), dim=-1).flatten(1, 2)  # (B groups, taps h, w, 2)
    per_group = x.reshape(-1, channels // groups, x.shape[2], x.shape[3])
    found = F.grid_sample(per_group, grid, align_corners=False)  # zeros outside
    found = found.reshape(-1, channels // groups, taps, height, width)
    if mask is not None:
        found = found * mask.reshape(-1, 1, taps, height, width)
    found = found.reshape(-1, channels * taps, height, width)
    conv_groups = channels // weight.shape[1]
    return F.conv2d(found, weight.reshape(weight.shape[0], -1, 1, 1), bias, groups=conv_groups)
