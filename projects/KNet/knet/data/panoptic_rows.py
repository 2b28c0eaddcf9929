"""Panoptic PNGs: whose each pixel is, as the number of its segment.

Rows are numbers in (unlabelled, *segments): small, and without gaps, where ids are neither.
"""

from typing import Dict, List, Tuple

import cv2
import numpy as np
import torch

from ..errors import DatasetError
from .id_map import id_map, runs

__all__ = [
    "check_ids",
    "classes_of_rows",
    "decode_panoptic",
    "fill_segments",
    "label_index",
    "segment_rows",
    "split_rows",
    "transformable",
]


def segment_rows(png: np.ndarray, segments: List[Dict], name: str) -> Tuple[np.ndarray, np.ndarray]:
    """The row of each pixel in (unlabelled, *segments), and the ids of these rows.

    Args:
        png: (H, W, 3) uint8, segment id = R + 256 G + 65536 B, 0 where unlabelled.
        segments: with ``id``.
        name: file name, for the error.

    Raises:
        DatasetError: the PNG has an id that ``segments`` do not list.
    """
    numbers = np.arange(len(segments) + 1)
    rows = numbers.astype(np.min_scalar_type(len(segments)))  # bytes are moved much faster
    return fill_segments(id_map(png), segments, rows, name), _known_ids(segments)


def fill_segments(
    ids: np.ndarray, segments: List[Dict], values: np.ndarray, name: str
) -> np.ndarray:
    """(H, W) ids of a panoptic PNG -> (H, W) the value of each pixel's segment.

    Args:
        segments: with ``id``.
        values: of (unlabelled, *segments).
        name: file name, for the error.

    Raises:
        DatasetError: the PNG has an id that ``segments`` do not list.
    """
    row, lengths = _rows_of_runs(ids, segments, name)
    return np.repeat(values[row], lengths).reshape(ids.shape)


def check_ids(ids: np.ndarray, segments: List[Dict], name: str) -> None:
    """
    Args:
        ids, segments, name: see :func:`fill_segments`.

    Raises:
        DatasetError: the PNG has an id that ``segments`` do not list.
    """
    _rows_of_runs(ids, segments, name)


def _rows_of_runs(
    ids: np.ndarray, segments: List[Dict], name: str
) -> Tuple[np.ndarray, np.ndarray]:
    """The row and the length of each run of equal ids."""
    found, lengths = runs(ids)
    known = _known_ids(segments)
    order = np.argsort(known)
    position = np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)
    row = order[position]
    wrong = known[row] != found
    if wrong.any():
        raise DatasetError(
            f"{name} has the segment id {found[wrong][0]}, which the json's segments_info of this "
            "image do not list"
        )
    return row, lengths


def _known_ids(segments: List[Dict]) -> np.ndarray:
    return np.array([0] + [s["id"] for s in segments], dtype=np.int32)  # row 0: unlabelled


def decode_panoptic(
    png: np.ndarray, segments: List[Dict], ignore_label: int = 255, name: str = "the panoptic PNG"
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a panoptic PNG into thing masks and a label map.

    Args:
        png: (H, W, 3) uint8, segment id = R + 256 G + 65536 B, 0 where unlabelled.
        segments: ``segments_info`` with contiguous ``category_id``, ``isthing``, ``iscrowd``.
        ignore_label: label of unlabelled and of crowd pixels.
        name: file name, for the error.

    Returns:
        thing masks (T, H, W) bool of things that are no crowd and have a pixel; their contiguous
        class (T,) int64; contiguous class of each pixel (H, W) int64.

    Raises:
        DatasetError: the PNG has an id that ``segments`` do not list.
    """
    rows, _ = segment_rows(png, segments, name)
    return split_rows(rows, segments, ignore_label)


def split_rows(
    rows: np.ndarray, segments: List[Dict], ignore_label: int
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The result of :func:`decode_panoptic` from the rows of :func:`segment_rows`."""
    # a flip only looks at them in another order, and torch wants what Pillow gives to be writable
    rows = np.require(label_index(rows), requirements=("C", "W"))
    category = classes_of_rows(segments, ignore_label)
    is_object = [bool(s["isthing"]) and not s.get("iscrowd", 0) for s in segments]
    present = torch.bincount(torch.from_numpy(rows).flatten(), minlength=len(category)).numpy() > 0
    things = np.flatnonzero(np.array([False, *is_object]) & present)
    masks = rows == things.astype(rows.dtype)[:, None, None]
    return masks, category[things], _look_up(category, rows)


def _look_up(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``values[rows]`` of int64; of bytes without NumPy's copy of them in 64 bits."""
    if rows.dtype != np.uint8:
        return values[rows]
    table = np.zeros(256, np.int32)
    table[: len(values)] = values
    return cv2.LUT(rows, table).astype(np.int64)


def classes_of_rows(segments: List[Dict], ignore_label: int) -> np.ndarray:
    """(1 + segments,) int64: contiguous class of each row; unlabelled and crowd are ignored."""
    classes = [ignore_label if s.get("iscrowd", 0) else s["category_id"] for s in segments]
    return np.array([ignore_label, *classes], dtype=np.int64)


def transformable(labels: np.ndarray) -> np.ndarray:
    """(H, W) integers in a type that every transform of label maps takes.

    Detectron2's own resize takes 8 bits or floating point only; float32 is exact up to 2^24.
    """
    if labels.size and (labels.min() < 0 or labels.max() > 255):
        return labels.astype(np.float32)
    return labels.astype(np.uint8)


def label_index(labels: np.ndarray) -> np.ndarray:
    """Undo :func:`transformable` for use as an index."""
    return labels if labels.dtype == np.uint8 else labels.astype(np.int64)
