"""The cells of the mask stride's map that losses look at: all of them, or some.

A loss is a mean over cells, which a few thousand random ones estimate. Most of those of a mask are
chosen where it is unsure, as in PointRend ("PointRend: Image Segmentation as Rendering", section
3.1) and Mask2Former. Masks are then read where they are looked at, and not enlarged
(but, without a gradient, for the IoU that an IoU branch learns).

Shape shorthand: B images, N kernels, T things, S stuff classes, C maps an image, P masks, H x W the
neck's map, h x w the mask stride's, M cells.
"""

from dataclasses import replace
from typing import List, Optional, Tuple, Union

import torch
from torch.nn import functional as F

from .masks import resize
from .points import at_point_stride
from .structures import Pairs, StagePrediction, Targets

__all__ = ["AllCells", "SomeCells", "are_sampled", "choose_cells", "random_cells", "values_at"]

# Of the cells of a mask: the share that is chosen by the mask, among so many times M random ones
UNSURE_SHARE = 0.75
OVERSAMPLING = 3
# Ours: among these are so many of the object, else a small one that is missed would be seen rarely
OWN_CELLS = 64


def are_sampled(maps: torch.Tensor, count: int) -> bool:
    """Do losses look at ``count`` cells of maps (..., h, w), instead of all?

    Not where nothing is learned: a validation loss keeps nothing, and is to be compared.
    """
    return torch.is_grad_enabled() and 0 < count < maps.shape[-2] * maps.shape[-1]


def choose_cells(targets: Targets, count: int) -> Union["AllCells", "SomeCells"]:
    """``count`` random cells of each image, see :func:`are_sampled`; else all."""
    if are_sampled(targets.thing_masks, count):
        return SomeCells(targets, count)
    return AllCells(targets)


class AllCells:
    """Every cell, the published form.

    Attributes:
        targets: at the cells of :meth:`of_images`.
    """

    def __init__(self, targets: Targets):
        self.targets = targets

    def of_images(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, h, w), or (B, C, 1, M) at the same cells for all maps."""
        return resize(maps, self.targets.thing_masks.shape[-2:])

    def of_masks(
        self, mask_logits: torch.Tensor, things: Pairs, stuff: Optional[Pairs]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """What the masks of all pairs are and should be: (P, h, w), or (P, M) at cells of each one.

        Args:
            mask_logits: (B, N, H, W).
            stuff: positive stuff kernels, None for none.
        """
        predicted = _rows(mask_logits, mask_logits, things, stuff, "kernel")
        wanted = _rows(self.targets.thing_masks, self.targets.stuff_masks, things, stuff)
        # no rows cannot be interpolated; reshaped they keep their path for the gradient
        if len(wanted) == 0:
            return predicted.reshape(wanted.shape), wanted
        return resize(predicted[None], wanted.shape[-2:])[0], wanted

    def to_match(
        self, stages: List[StagePrediction], seen: List[StagePrediction]
    ) -> Tuple[List[StagePrediction], Targets]:
        """What matching compares.

        Args:
            stages: with masks (B, N, H, W).
            seen: with masks of :meth:`of_images`, where these are needed anyway.
        """
        return seen, self.targets


class SomeCells:
    """M random cells of each image; for mask and dice loss M cells of each mask. Else the same."""

    def __init__(self, targets: Targets, count: int):
        """
        Args:
            count: M.
        """
        self._all_targets, self._count = targets, count
        self._size = tuple(targets.thing_masks.shape[-2:])
        self._candidates = random_cells(targets.thing_masks, OVERSAMPLING * count)
        self._things, self._stuff = (
            values_at(masks, self._candidates, self._size)
            for masks in (targets.thing_masks, targets.stuff_masks)
        )
        self._own_things, self._own_stuff = (
            (masks > 0) & ((masks > 0).cumsum(2, dtype=torch.int32) <= OWN_CELLS)
            for masks in (self._things, self._stuff)
        )
        self.targets = replace(
            targets,
            thing_masks=self._things[:, :, None, :count],
            stuff_masks=self._stuff[:, :, None, :count],
        )

    def of_images(self, maps):
        return values_at(maps, self._candidates[:, : self._count], self._size)[:, :, None]

    def of_masks(self, mask_logits, things, stuff):
        predicted = _rows(mask_logits, mask_logits, things, stuff, "kernel")
        chosen = self._choose(mask_logits, things, stuff)
        wanted = _rows(self._things, self._stuff, things, stuff).gather(1, chosen)
        if len(wanted) == 0:
            return predicted.reshape(wanted.shape), wanted
        image = things.image if stuff is None else torch.cat((things.image, stuff.image))
        cells = self._candidates[image[:, None], chosen]
        return values_at(predicted[:, None], cells, self._size)[:, 0], wanted

    @torch.no_grad()
    def _choose(self, mask_logits, things, stuff) -> torch.Tensor:
        """Which candidates each mask is looked at: (P, M)."""
        sureness = values_at(mask_logits, self._candidates, self._size).abs()  # (B, N, 3 M)
        sureness = _rows(sureness, sureness, things, stuff, "kernel")
        own = _rows(self._own_things, self._own_stuff, things, stuff)
        number = int(UNSURE_SHARE * self._count)
        unsure = sureness.masked_fill_(own, -1).topk(number, largest=False, sorted=False).indices
        others = torch.arange(self._count - number, device=unsure.device)
        return torch.cat((unsure, others.expand(len(unsure), -1)), dim=1)

    def to_match(self, stages, seen):
        """All cells, at the neck's stride: a random few would miss small objects."""
        targets, size = self._all_targets, stages[0].mask_logits.shape[-2:]
        return stages, replace(targets, thing_masks=at_point_stride(targets.thing_masks, size))


def random_cells(maps: torch.Tensor, count: int) -> torch.Tensor:
    """For each image of maps (B, ..., h, w): (B, count) cells, y * w + x, or all that there are.

    No cell twice; any first part of them is random too.
    """
    number = maps.shape[-2] * maps.shape[-1]
    return torch.stack([torch.randperm(number, device=maps.device)[:count] for _ in maps])


def values_at(maps: torch.Tensor, cells: torch.Tensor, size: Tuple[int, int]) -> torch.Tensor:
    """What maps have in some cells once they are enlarged, of which nothing else is computed.

    Args:
        maps: (B, C, H, W).
        cells: (B, M), y * w + x.
        size: (h, w) of the enlarged maps.

    Returns:
        (B, C, M).
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1))
    height, width = size
    y = (torch.div(cells, width, rounding_mode="floor") + 0.5) / height
    x = (cells % width + 0.5) / width
    places = 2 * torch.stack((x, y), dim=-1)[:, None] - 1
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)[:, :, 0]


def _rows(of_things, of_stuff, things: Pairs, stuff: Optional[Pairs], column: str = "target"):
    """Of two tensors (B, rows, ...) what stands in the rows of all pairs: (P, ...)."""
    rows = of_things[things.image, getattr(things, column)]
    if stuff is None:
        return rows
    return torch.cat((rows, of_stuff[stuff.image, getattr(stuff, column)]))
