"""Which objects of an instance data set are learned from. An object counts by its mask."""

from typing import Any, Dict, Optional, Tuple

import numpy as np

from .polygons import extent
from .run_lengths import rle_area

__all__ = ["CROWD", "NARROW", "NO_MASK", "OUTSIDE", "has_mask", "is_box", "why_left_out"]

# what an object that is left out is
CROWD = "marked as a crowd (iscrowd 1)"
NO_MASK = "without a mask"
NARROW = "narrower or lower than 1 pixel"
OUTSIDE = "outside of the image"


def has_mask(segmentation: Any) -> bool:
    """Does an annotation's ``segmentation`` hold something?"""
    return segmentation is not None and len(segmentation) > 0


def is_box(box: Any) -> bool:
    """Four finite numbers x, y, width, height, and an area?"""
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
        return False
    numbers = all(isinstance(side, (int, float, np.number)) for side in box)
    return numbers and bool(np.isfinite(box).all()) and box[2] > 0 and box[3] > 0


def why_left_out(annotation: Dict, size: Tuple[Optional[int], Optional[int]]) -> Optional[str]:
    """The kind of reason for which an object is no target; None: it is learned from.

    Args:
        annotation: Detectron2's; its mask can be drawn.
        size: (H, W) of the image; None: unknown.
    """
    if annotation.get("iscrowd", 0):
        return CROWD
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, np.ndarray):
        return None if (segmentation > 0).any() else NO_MASK
    if not has_mask(segmentation):
        return NO_MASK
    if isinstance(segmentation, dict):
        return None if rle_area(segmentation) else NO_MASK
    return _why_polygons_are(segmentation, size)


def _why_polygons_are(polygons: Any, size: Tuple[Optional[int], Optional[int]]) -> Optional[str]:
    left, top, right, bottom = extent(polygons)
    # COCO's boxes are those of the polygons, to two decimals
    if round(min(right - left, bottom - top), 2) < 1:
        return NARROW
    height, width = size
    if right <= 0 or bottom <= 0:
        return OUTSIDE
    if (width and left >= width) or (height and top >= height):
        return OUTSIDE
    return None
