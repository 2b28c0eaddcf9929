"""Polygons of a json: their form, what cannot be drawn, and their extent. P polygons an object."""

import itertools
import math
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

__all__ = ["are_near_numbers", "check_polygons", "extent", "plain_polygons"]

# How far outside, in sides of the image: objects cut by its border reach out a little.
_REACH = 10
_UNKNOWN_SIDE = 10_000  # where the image's size is not known
# Pixels along an outline: COCO's rasteriser takes 100 bytes for each and more.
_MAX_OUTLINE = 2**22

_PAIRS = "has points in lists of their own: write a polygon as [x, y, x, y, ...]"


def plain_polygons(segmentation: Any) -> List[List[float]]:
    """[x, y, x, y, ...] a polygon, of lists of numbers; one polygon may stand without its list.

    Numbers may be written as text. Polygons of less than 3 points are left out, as Detectron2 does.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(segmentation, (list, tuple)):
        raise ValueError(f"is {_shown(segmentation)}: it must be a list of polygons, or an RLE")
    if segmentation and not any(isinstance(polygon, (list, tuple)) for polygon in segmentation):
        segmentation = [segmentation]
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, (list, tuple)):
            raise ValueError(f"has {_shown(polygon)} in place of a polygon [x, y, x, y, ...]")
        if any(isinstance(number, (list, tuple, dict)) for number in polygon):
            raise ValueError(
                "has points in lists of their own: write a polygon as [x, y, x, y, ...]"
            )
        numbers = [_number(number) for number in polygon]
        if len(numbers) >= 6 and len(numbers) % 2 == 0:
            polygons.append(numbers)
    pairs = [polygon for polygon in segmentation if len(polygon) == 2]
    if len(pairs) >= 3 and len(pairs) == len(segmentation):
        raise ValueError(_PAIRS)
    return polygons


def are_near_numbers(segmentation: Any, size: Tuple[Optional[int], Optional[int]]) -> bool:
    """Polygons of finite numbers near the image? (The quick look at nearly all objects.)"""
    if not isinstance(segmentation, list) or not segmentation or None in size:
        return False
    if not all(type(p) is list and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation):
        return False
    numbers = list(itertools.chain.from_iterable(segmentation))
    if not set(map(type, numbers)) <= {int, float}:
        return False
    reach = min(size)
    near = -reach < min(numbers) and max(numbers) < max(size) + reach
    # of NaN each comparison is false, and a sum stays NaN
    return near and sum(numbers) == sum(numbers) and len(numbers) * max(size) < 2**20


def check_polygons(
    polygons: Sequence[Sequence[float]], size: Tuple[Optional[int], Optional[int]]
) -> None:
    """Can they be drawn with memory in proportion to an image?

    Args:
        polygons: lists or arrays of numbers.
        size: (H, W) of the image; None: unknown.

    Raises:
        ValueError: a coordinate is no finite number or far outside the image, or an outline is
            longer than any picture needs.
    """
    height, width = (side or _UNKNOWN_SIDE for side in size)
    for polygon in polygons:
        if not isinstance(polygon, (list, tuple, np.ndarray)):
            raise ValueError(f"has {_shown(polygon)} in place of a polygon [x, y, x, y, ...]")
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError(
                f"has the coordinate {points[~np.isfinite(points)][0]}, which is no number"
            )
        for name, values, side in (("x", points[:, 0], width), ("y", points[:, 1], height)):
            far = (values < -_REACH * side) | (values > (_REACH + 1) * side)
            if far.any():
                raise ValueError(
                    f"has the coordinate {name} = {values[far][0]:g}, far outside the image of "
                    f"{width} x {height}"
                )
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
        if steps > _MAX_OUTLINE:
            raise ValueError(f"has an outline of {steps:.0f} pixels: {_MAX_OUTLINE} are the most")


def extent(polygons: Sequence[Sequence[float]]) -> Tuple[float, float, float, float]:
    """Least x and y, largest x and y of all points."""
    xs = [(min(polygon[0::2]), max(polygon[0::2])) for polygon in polygons]
    ys = [(min(polygon[1::2]), max(polygon[1::2])) for polygon in polygons]
    return (
        float(min(low for low, _ in xs)),
        float(min(low for low, _ in ys)),
        float(max(high for _, high in xs)),
        float(max(high for _, high in ys)),
    )


def _number(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return value if isinstance(value, (int, float)) else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"has {_shown(value)} in place of a number") from None


def _shown(value: Any) -> str:
    """A value of the json for a sentence, cut where it is long."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
