"""Points: the cells of a map at which kernels start, and the objects that they may take.

The middle of an object is learned as in CenterNet ("Objects as Points", section 3): a map a class,
high where a middle is. Shape shorthand: B images, N kernels, K thing classes, T things, H x W the
neck's map, h x w the mask stride's.
"""

from typing import Tuple

import torch
from torch.nn import functional as F

from .structures import Points, Targets

__all__ = [
    "at_point_stride",
    "covered_by_stronger",
    "middle_cells",
    "offsets",
    "point_target",
    "reachable",
    "strongest_cells",
    "vote_loss",
]


def strongest_cells(logits: torch.Tensor, count: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """The cells of the highest scores among the local maxima of their 3 x 3 neighbourhood.

    Where there are fewer maxima than wanted, other cells follow; where there are fewer cells, the
    first one is repeated.

    Args:
        logits: (B, K, H, W); a cell's score is that of its best class.
        count: N, of cells wanted.

    Returns:
        (B, N) cells, y * W + x, by falling score, and (B, N) bool, is it a local maximum.
    """
    best = logits.amax(1, keepdim=True)
    is_peak = (F.max_pool2d(best, 3, stride=1, padding=1) == best).flatten(1)
    best = best.flatten(1)
    spread = best.amax(1, keepdim=True) - best.amin(1, keepdim=True)
    score = best + is_peak * (spread + 1)  # maxima before all others
    there = score.shape[1]
    found = count if count <= there else there  # not min(): an export knows a number then
    cells = score.topk(found, dim=1).indices
    is_peak = is_peak.gather(1, cells)
    if found < count:
        cells = torch.cat((cells, cells[:, :1].expand(-1, count - found)), dim=1)
        is_peak = F.pad(is_peak, (0, count - found), value=False)
    return cells, is_peak


def covered_by_stronger(
    mask_logits: torch.Tensor, cells: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Which points lie inside the mask of a stronger one: they found the same object again.

    Args:
        mask_logits: (B, N, H, W) of kernels by falling score.
        cells: (B, N) where they start.
        threshold: a mask is where its probability is above it.

    Returns:
        (B, N) bool.
    """
    index = cells[:, None].expand(-1, cells.shape[1], -1)
    at_points = mask_logits.flatten(2).gather(2, index)  # [:, m, n]: mask m at point n
    return (at_points.sigmoid() > threshold).triu(1).any(1)


def at_point_stride(masks: torch.Tensor, size: Tuple[int, int]) -> torch.Tensor:
    """Soft masks (B, T, h, w) at the mask stride -> (B, T, H, W) at the neck's, the mean share."""
    factor = masks.shape[-1] // size[1]
    return masks if factor == 1 else F.avg_pool2d(masks, factor)


def centres_of_mass(masks: torch.Tensor) -> torch.Tensor:
    """(B, T, H, W) soft masks -> (B, T, 2) y and x, in cells; of an object without pixels 0, 0."""
    height, width = masks.shape[-2:]
    y = torch.arange(height, device=masks.device, dtype=masks.dtype)
    x = torch.arange(width, device=masks.device, dtype=masks.dtype)
    area = masks.sum((2, 3)).clamp(min=1e-6)
    centre_y = (masks.sum(3) * y).sum(2) / area
    centre_x = (masks.sum(2) * x).sum(2) / area
    return torch.stack((centre_y, centre_x), dim=-1)


def middle_cells(masks: torch.Tensor) -> torch.Tensor:
    """The cell of each object that is nearest to its centre of mass.

    Of the cells in which it has half of its largest share and more: the middle of a ring is on it.

    Args:
        masks: (B, T, H, W) soft masks.

    Returns:
        (B, T, 2) y and x of the cell; of an object without pixels 0, 0.
    """
    height, width = masks.shape[-2:]
    distance = squared_distance(centres_of_mass(masks), height, width)
    own = (masks > 0) & (masks >= masks.amax((2, 3), keepdim=True) / 2)
    cell = distance.masked_fill(~own, torch.inf).flatten(2).argmin(2)
    return torch.stack((torch.div(cell, width, rounding_mode="floor"), cell % width), dim=-1)


def offsets(points: torch.Tensor, height: int, width: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """(B, N, 2) y and x -> how far each row (B, N, H, 1) and column (B, N, 1, W) is, in cells."""
    y = torch.arange(height, device=points.device, dtype=torch.float32) - points[..., :1]
    x = torch.arange(width, device=points.device, dtype=torch.float32) - points[..., 1:]
    return y[..., :, None], x[..., None, :]


def squared_distance(points: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, N, 2) y and x -> (B, N, H, W), in cells squared."""
    y, x = offsets(points, height, width)
    return y.square() + x.square()


def point_target(
    targets: Targets, num_classes: int, size: Tuple[int, int]
) -> Tuple[torch.Tensor, torch.Tensor]:
    """What the point map should be: 1 at each middle, a Gaussian around it.

    Its standard deviation is a fifth of the object's side (the root of its area), 0.8 cells at
    least; where several objects of a class meet, the highest counts.

    Args:
        targets: of the batch, at the mask stride.
        num_classes: K.
        size: (H, W) of the point map.

    Returns:
        (B, K, H, W), and how many objects have a middle (scalar tensor).
    """
    masks = at_point_stride(targets.thing_masks, size)
    area = masks.sum((2, 3))
    sigma = (0.2 * area.sqrt()).clamp(min=0.8)[:, :, None, None]
    y, x = offsets(middle_cells(masks), *size)
    of_rows, of_columns = (torch.exp(-(d / sigma).square() / 2) for d in (y, x))
    heat = of_rows * (area > 0)[:, :, None, None] * of_columns
    index = targets.thing_classes[:, :, None, None].expand_as(heat)
    target = heat.new_zeros((len(heat), num_classes, *size))
    return target.scatter_reduce_(1, index, heat, "amax"), (area > 0).sum()


def reachable(points: Points, targets: Targets) -> torch.Tensor:
    """Which objects have a share in the cell where a kernel starts: (B, N, T) bool."""
    masks = at_point_stride(targets.thing_masks, points.logits.shape[-2:]).flatten(2)
    index = points.cells[:, None].expand(-1, masks.shape[1], -1)
    return (masks.gather(2, index) > 0).transpose(1, 2)


def vote_loss(votes: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """How far from the centre of mass of its object each cell votes, in sides of the object.

    A side is the root of the area, a distance that of y and that of x added up. The mean over the
    cells of which an object has half and more, summed over objects.

    Args:
        votes: (B, 2, H, W) y and x, in 4 cells.
        masks: (B, T, h, w) soft masks at the mask stride, T at least 1.
    """
    height, width = votes.shape[-2:]
    masks = at_point_stride(masks, (height, width))
    share, owner = masks.max(1)
    inside = (share >= 0.5).to(votes.dtype).flatten(1)  # (B, H W)
    owner = owner.flatten(1)
    side = masks.sum((2, 3)).clamp(min=1).sqrt()
    count = torch.zeros_like(side).scatter_add_(1, owner, inside)
    weight = inside / (count.clamp(min=1) * side).gather(1, owner)

    wanted = centres_of_mass(masks).gather(1, owner[..., None].expand(-1, -1, 2))  # (B, H W, 2)
    cell = torch.arange(height * width, device=votes.device)
    own = torch.stack((torch.div(cell, width, rounding_mode="floor"), cell % width), dim=-1)
    distance = (own + 4 * votes.flatten(2).transpose(1, 2) - wanted).abs().sum(2)
    return (distance * weight).sum()
