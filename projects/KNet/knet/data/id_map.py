"""Panoptic PNGs as maps of segment ids, and the runs of equal pixels that such maps consist of."""

from typing import Tuple

import cv2
import numpy as np

__all__ = ["id_map", "is_area_of", "runs"]

_AREA_SHARE, _AREA_PIXELS = 0.02, 4  # by which the area of a segment may differ


def id_map(png: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int32: R + 256 G + 65536 B."""
    if not png.size:
        return np.zeros(png.shape[:2], np.int32)
    return cv2.cvtColor(png, cv2.COLOR_RGB2RGBA).view("<i4")[..., 0] & 0xFFFFFF


def is_area_of(area: float, pixels: int) -> bool:
    """Whether the area that a json tells may be that of so many pixels."""
    return abs(area - pixels) <= max(_AREA_PIXELS, _AREA_SHARE * pixels)


def runs(values: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The value and the length of each run, row after row: far fewer than pixels.

    Args:
        values: of any shape.
    """
    values = values.ravel()
    starts = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([np.zeros(min(1, values.size), np.int64), starts])
    return values[starts], np.diff(starts, append=values.size)
