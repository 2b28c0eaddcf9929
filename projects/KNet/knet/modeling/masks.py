"""Masks at another size."""

from typing import Sequence

import torch
from torch.nn import functional as F

from .recorded import is_recorded

__all__ = ["enlarge", "interpolate_rows", "interpolation_matrix", "on_grid", "resize", "sample"]


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, N, H, W) -> (B, N, height, width), bilinear; the same tensor if it has that size."""
    size = tuple(size)
    if tuple(x.shape[-2:]) == size:
        return x
    if size == tuple(2 * side for side in x.shape[-2:]) and _learns_on_cpu(x):
        return _double(x)
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def enlarge(x: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, N, H, W) -> (B, N, factor H, factor W), bilinear, as in Detectron2's heads."""
    if factor == 2 and _learns_on_cpu(x):
        return _double(x)
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _learns_on_cpu(x: torch.Tensor) -> bool:
    if is_recorded():
        return False
    is_fast = torch.backends.mkldnn.is_available() and x.dtype == torch.float32
    return is_fast and x.requires_grad and x.device.type == "cpu"


def _double(x: torch.Tensor) -> torch.Tensor:
    """Twice the size, bilinear, by a transposed convolution: small maps take less time so."""
    side = x.new_tensor([0.25, 0.75, 0.75, 0.25])
    weight = (side[:, None] * side).expand(x.shape[1], 1, 4, 4)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    with torch.autocast("cpu", enabled=False):  # as PyTorch's own, in single precision
        return F.conv_transpose2d(x, weight, stride=2, padding=3, groups=x.shape[1])


def interpolation_matrix(
    source: int, length: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(length, source), on the CPU: what PyTorch's bilinear interpolation does along one side."""
    return interpolate_rows(torch.eye(source, dtype=dtype, device="cpu"), length)


def interpolate_rows(x: torch.Tensor, length: int) -> torch.Tensor:
    """(source, n) -> (length, n), bilinear."""
    maps = F.interpolate(x.t()[None, :, :, None], (length, 1), mode="bilinear", align_corners=False)
    return maps[0, :, :, 0].t()


def on_grid(
    masks: torch.Tensor,
    padded: Sequence[int],
    image: Sequence[int],
    grid: Sequence[int],
    mirrored: bool = False,
) -> torch.Tensor:
    """Masks of a padded image on a grid that the image alone fills, bilinear.

    Args:
        masks: (B, N, any height, any width).
        padded, image: (height, width) of the image, with its padding and without.
        grid: (height, width), in cells.
        mirrored: the image is mirrored: mirror the masks back.

    Returns:
        (B, N, height, width) of the grid.
    """
    y, x = (
        (torch.arange(cells, device=masks.device) + 0.5) * (side / (cells * whole))
        for cells, side, whole in zip(grid, image, padded)
    )
    return sample(masks, y, x.flip(0) if mirrored else x)


def sample(
    masks: torch.Tensor, y: torch.Tensor, x: torch.Tensor, padding_mode: str = "border"
) -> torch.Tensor:
    """Masks at the crossings of rows and columns, bilinear.

    Args:
        masks: (B, N, H, W).
        y, x: (h,) and (w,), as shares of the masks' height and width.
        padding_mode: beyond 0 to 1, see ``torch.nn.functional.grid_sample``.

    Returns:
        (B, N, h, w).
    """
    places = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=-1)
    places = (2 * places - 1).expand(len(masks), -1, -1, -1)
    return F.grid_sample(masks, places, padding_mode=padding_mode, align_corners=False)
